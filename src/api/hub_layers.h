// LoadOptions::use_kernels: which layers of a model get a kernel from the hub, and the libraries that have them.
#pragma once

#include "core/device_context.h"
#include "kernels/table.h"
#include "tessera/llm.h"

namespace tessera {

// Puts them into the table; a layer that cannot be had keeps its built-in kernel, with a warning that says why. Throws
// kInvalidArgument for a text that is none of the forms, kNotFound or kCorrupt for a mapping or lock that cannot be
// read.
void use_hub_kernels(Kernels& kernels, const LoadOptions& options, DeviceContext& context);

}  // namespace tessera
