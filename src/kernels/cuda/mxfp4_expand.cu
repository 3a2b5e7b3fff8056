// One thread takes 4 bytes of codes to 16 bytes of values: a warp reads 128 bytes and writes 512, both in one piece.
#include "kernels/cuda/mxfp4_expand.h"

#include "kernels/cuda/launch.h"

namespace tessera::cuda {
namespace {

constexpr int kThreads = 256;

// 2^(scale - 127); the smallest is below F32's normal numbers.
__device__ float scale_of(uint32_t scale) {
  return __uint_as_float(scale == 0 ? 0x00400000u : scale << 23);
}

// E2M1: 0, 0.5, then (1 + mantissa / 2) * 2^(exponent - 1).
__device__ float value_of(uint32_t code) {
  const uint32_t magnitude = code & 7;
  const float value = magnitude < 2 ? 0.5f * static_cast<float>(magnitude)
                                    : static_cast<float>(2 | (magnitude & 1)) * 0.5f *
                                          static_cast<float>(1u << ((magnitude >> 1) - 1));
  return __uint_as_float(__float_as_uint(value) | (code & 8) << 28);
}

// Two significant bits and an exponent of 2^-128 at least: the upper half of the F32 is the whole number.
__device__ uint32_t two_values(uint32_t codes, float scale) {
  const uint32_t low = __float_as_uint(__fmul_rn(value_of(codes & 15), scale));
  const uint32_t high = __float_as_uint(__fmul_rn(value_of(codes >> 4 & 15), scale));
  return low >> 16 | (high & 0xffff0000u);
}

__global__ void __launch_bounds__(kThreads)
    expand_kernel(const uint32_t* codes, const uint8_t* scales, int64_t words, uint4* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= words) return;
  const uint32_t word = codes[i];
  const float scale = scale_of(scales[i / 4]);
  out[i] = make_uint4(two_values(word, scale), two_values(word >> 8, scale), two_values(word >> 16, scale),
                      two_values(word >> 24, scale));
}

}  // namespace

void expand_mxfp4(const uint8_t* codes, const uint8_t* scales, int64_t blocks, uint16_t* out, void* stream) {
  const int64_t words = blocks * 4;
  if (words == 0) return;
  expand_kernel<<<static_cast<unsigned>(ceil_div(words, kThreads)), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      reinterpret_cast<const uint32_t*>(codes), scales, words, reinterpret_cast<uint4*>(out));
  check(cudaGetLastError(), "expand_mxfp4");
}

}  // namespace tessera::cuda
