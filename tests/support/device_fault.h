// A kernel that traps: from then on every call to this process's GPU fails, as after a wild access of a kernel.
#pragma once

namespace tessera {

// Returns before the fault happens.
void fault_device();

}  // namespace tessera
