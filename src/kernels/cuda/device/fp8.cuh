// E4M3 to bf16 in registers. Sign, exponent and mantissa are moved to bf16's places, which reads as value * 2^-120,
// subnormals included; one multiply puts that right. Every E4M3 number is a bf16 number, so this is exact.
#pragma once

#include "kernels/cuda/device/ptx.cuh"

namespace tessera::cuda {

// Bytes 0 and 1 of a word (or 2 and 3, kHigh) as two bf16, the lower byte in the lower half.
template <bool kHigh>
__device__ __forceinline__ uint32_t fp8_pair(uint32_t word) {
  uint32_t spread = prmt(word, 0, kHigh ? 0x3424 : 0x1404);  // byte -> upper byte of its half
  return mul_bf16x2((spread & 0x80008000u) | ((spread >> 4) & 0x07f007f0u), 0x7b807b80u);
}

}  // namespace tessera::cuda
