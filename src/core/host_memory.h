// How much main memory this process may still use.
#pragma once

#include <cstdint>

namespace tessera {

// Bytes: the kernel's estimate, cut by a cgroup v2 limit. 0 when the system does not tell.
int64_t available_memory();

}  // namespace tessera
