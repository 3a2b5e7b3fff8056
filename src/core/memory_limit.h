// A device with less memory than it has: to keep room for other programs, and to see what a smaller card would do.
#pragma once

#include <memory>

#include "core/device_context.h"

namespace tessera {

// The same device, on which allocate() throws kOutOfMemory once more than `bytes - reserved` are taken, whatever the
// device itself has; info() tells the same. `reserved` is what the driver takes by itself.
std::unique_ptr<DeviceContext> limit_memory(std::unique_ptr<DeviceContext> context, int64_t bytes, int64_t reserved);

}  // namespace tessera
