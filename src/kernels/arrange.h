// Moves weights to a GPU in the form its kernels read best. Builds without CUDA link an empty twin, never called.
#pragma once

#include "core/arena.h"
#include "core/device_context.h"

namespace tessera {

// Bytes of device memory that `host` will take, and the most that are needed besides while it is arranged.
struct ArrangeSizes {
  int64_t bytes = 0;
  int64_t temporary_bytes = 0;
};
ArrangeSizes cuda_arrange_sizes(const Weight& host);

// Copies `host` to the device and re-arranges it; `temporary` is device memory of at least temporary_bytes that stays
// untouched until the stream has passed. Asynchronous.
Weight cuda_arrange(const Weight& host, DeviceContext& context, Arena& arena, void* temporary);

}  // namespace tessera
