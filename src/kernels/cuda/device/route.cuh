// Top A of E logits with weights, by one warp. Ties go to the lower index; NaN counts as the smallest value, so the indices
// are always valid.
#pragma once

#include "kernels/cuda/device/reduce.cuh"
#include "kernels/cuda/device/value.cuh"
#include "kernels/ops.h"

namespace tessera::cuda {

constexpr int kRouterPerLane = 8;     // logits a lane holds: i * 32 + lane
constexpr int kRouterMaxActive = 16;  // experts a token

// The largest of 32 numbers, the smallest of 32 numbers.
__device__ __forceinline__ uint32_t warp_max(uint32_t v) {
#if __CUDA_ARCH__ >= 800
  return __reduce_max_sync(0xffffffffu, v);
#else
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) v = max(v, __shfl_xor_sync(0xffffffffu, v, offset));
  return v;
#endif
}
__device__ __forceinline__ uint32_t warp_min(uint32_t v) { return ~warp_max(~v); }

// v[i] is logit i * 32 + lane, anything past the last; weights are rounded to T. All 32 lanes call.
template <class T>
__device__ __forceinline__ void route_token(float (&v)[kRouterPerLane], RouterMode mode, int experts, int active,
                                            int32_t* indices, float* weights) {
  int lane = threadIdx.x % 32;
  uint32_t key[kRouterPerLane];  // orders as the logits do; 0: none, or taken
#pragma unroll
  for (int i = 0; i < kRouterPerLane; ++i) {
    bool real = i * 32 + lane < experts;
    if (!real || isnan(v[i])) v[i] = -INFINITY;
    uint32_t u = __float_as_uint(v[i] + 0.0f);  // -0 is 0
    key[i] = real ? u ^ (u >> 31 ? 0xffffffffu : 0x80000000u) : 0;
  }
  float chosen = 0.0f;  // lane a keeps the a-th
  int chosen_index = 0;
  for (int a = 0; a < active; ++a) {
    uint32_t best = key[0];
#pragma unroll
    for (int i = 1; i < kRouterPerLane; ++i) best = max(best, key[i]);
    best = warp_max(best);
    uint32_t index = 0xffffffffu;
#pragma unroll
    for (int i = kRouterPerLane - 1; i >= 0; --i)
      if (key[i] == best) index = i * 32 + lane;
    index = warp_min(index);
#pragma unroll
    for (int i = 0; i < kRouterPerLane; ++i)
      if (i * 32 + lane == index) key[i] = 0;
    if (lane == a) {
      chosen = __uint_as_float(best >> 31 ? best ^ 0x80000000u : ~best);
      chosen_index = static_cast<int>(index);
    }
  }
  // The first pick is the largest logit.
  float top = __shfl_sync(0xffffffffu, chosen, 0);
  float power = lane < active ? __expf(chosen - top) : 0.0f;
  float sum;
  if (mode == RouterMode::kSoftmaxOfTopK) {
    sum = warp_sum(power);
  } else {
    float own = 0.0f;
#pragma unroll
    for (int i = 0; i < kRouterPerLane; ++i)
      if (i * 32 + lane < experts) own += __expf(v[i] - top);
    sum = warp_sum(own);
  }
  float weight = power / sum;
  if (mode == RouterMode::kTopKOfSoftmaxNormalised) weight /= warp_sum(weight);
  if (lane < active) {
    indices[lane] = chosen_index;
    weights[lane] = round_to<T>(weight);
  }
}

}  // namespace tessera::cuda
