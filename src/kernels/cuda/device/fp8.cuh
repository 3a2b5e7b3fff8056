// E4M3 to bf16 or F16 in registers. Sign, exponent and mantissa are moved to the other type's places, which reads as value *
// 2^-120 or 2^-8, subnormals included; one multiply puts that right. Every E4M3 number is one of both, so this is exact.
#pragma once

#include <type_traits>

#include "kernels/cuda/device/ptx.cuh"

namespace tessera::cuda {

// Bytes 0 and 1 of a word (or 2 and 3, kHigh) as two bf16, the lower byte in the lower half.
template <bool kHigh>
__device__ __forceinline__ uint32_t fp8_pair(uint32_t word) {
  uint32_t spread = prmt(word, 0, kHigh ? 0x3424 : 0x1404);  // byte -> upper byte of its half
  return mul_bf16x2((spread & 0x80008000u) | ((spread >> 4) & 0x07f007f0u), 0x7b807b80u);
}

template <class T, bool kHigh>
__device__ __forceinline__ uint32_t fp8_pair_as(uint32_t word) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return fp8_pair<kHigh>(word);
  } else {
    uint32_t spread = prmt(word, 0, kHigh ? 0x3424 : 0x1404);
    uint32_t bits = (spread & 0x80008000u) | ((spread >> 1) & 0x3f803f80u), scale = 0x5c005c00u;  // 256
    __half2 v = __hmul2(reinterpret_cast<__half2&>(bits), reinterpret_cast<__half2&>(scale));
    return reinterpret_cast<uint32_t&>(v);
  }
}

// 8 consecutive values of the cache as 16-bit ones: C is T itself, or uint8_t for E4M3.
template <class T, class C>
__device__ __forceinline__ uint4 load_cache(const C* p) {
  if constexpr (std::is_same_v<C, uint8_t>) {
    uint2 v = *reinterpret_cast<const uint2*>(p);
    return make_uint4(fp8_pair_as<T, false>(v.x), fp8_pair_as<T, true>(v.x), fp8_pair_as<T, false>(v.y),
                      fp8_pair_as<T, true>(v.y));
  } else {
    return load_act(p);
  }
}

}  // namespace tessera::cuda
