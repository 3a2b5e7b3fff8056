// Dense weights in 8 bits: E4M3 with one F32 scale a row (WeightFormat::kFp8Rows).
#pragma once

#include <cstdint>

#include "core/tensor.h"

namespace tessera::cuda {

// Rows of 16 bytes a lane: K must be a multiple of 64 for the kernels that read them.
constexpr bool fits_fp8_rows(int64_t k) {
  return k % 64 == 0;
}
constexpr int64_t fp8_rows_bytes(int64_t n, int64_t k) {
  return n * k + n * 4;
}

// Device: `rows` is [n, k] of F32, BF16 or F16. scales[i] is the least power of two that is at least max |row i| / 448
// (1 for a row of zeros), so that value * scale is a bf16 number; values are row / scale rounded to the nearest E4M3,
// ties to even. In stream order; all pointers are device memory.
void quantize_fp8_rows(const Tensor& rows, uint8_t* values, float* scales, void* stream);

}  // namespace tessera::cuda
