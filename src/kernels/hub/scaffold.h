// A new kernel project: the files of examples/custom_kernel under another name.
#pragma once

#include <string>
#include <vector>

namespace tessera::hub_kernels {

// Creates `folder`, whose last part names the kernel (letters, digits, '-' and '_'). The files written. Throws
// kInvalidArgument for a name that cannot be, or a folder that is there and not empty; kIo.
std::vector<std::string> write_scaffold(const std::string& folder);

}  // namespace tessera::hub_kernels
