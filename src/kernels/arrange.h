// Moves weights to a GPU in the form its kernels read best. Builds without CUDA link an empty twin, never called.
#pragma once

#include "core/arena.h"
#include "core/device_context.h"

namespace tessera {

// Bytes of device memory that `host` will take, and the most that are needed besides while it is arranged. The form
// depends on the activations that it will meet: the kernels for re-arranged MXFP4 take BF16 only.
struct ArrangeSizes {
  int64_t bytes = 0;
  int64_t temporary_bytes = 0;
};
ArrangeSizes cuda_arrange_sizes(const Weight& host, DType activations);

// Copies `host` to the device and re-arranges it; `temporary` is device memory of at least temporary_bytes that stays
// untouched until the stream has passed. Asynchronous.
Weight cuda_arrange(const Weight& host, DType activations, DeviceContext& context, Arena& arena, void* temporary);

}  // namespace tessera
