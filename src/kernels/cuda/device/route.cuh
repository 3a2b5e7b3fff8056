// Top A of E logits with weights, by one warp. Ties go to the lower index; NaN counts as the smallest value, so the indices
// are always valid.
#pragma once

#include "kernels/cuda/device/reduce.cuh"
#include "kernels/cuda/device/value.cuh"
#include "kernels/ops.h"

namespace tessera::cuda {

constexpr int kRouterPerLane = 8;     // logits a lane holds: i * 32 + lane
constexpr int kRouterMaxActive = 16;  // experts a token

// v[i] is logit i * 32 + lane, anything past the last; weights are rounded to T. All 32 lanes call.
template <class T>
__device__ __forceinline__ void route_token(float (&v)[kRouterPerLane], RouterMode mode, int experts, int active,
                                            int32_t* indices, float* weights) {
  int lane = threadIdx.x % 32;
  bool free[kRouterPerLane];
#pragma unroll
  for (int i = 0; i < kRouterPerLane; ++i) {
    free[i] = i * 32 + lane < experts;
    if (!free[i] || isnan(v[i])) v[i] = -INFINITY;
  }
  float chosen = 0.0f;  // lane a keeps the a-th
  int chosen_index = 0;
  for (int a = 0; a < active; ++a) {
    float best = -INFINITY;
    int index = 0x7fffffff;
#pragma unroll
    for (int i = 0; i < kRouterPerLane; ++i) {
      int e = i * 32 + lane;
      if (free[i] && (index == 0x7fffffff || v[i] > best)) best = v[i], index = e;
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      float other = __shfl_xor_sync(0xffffffffu, best, offset);
      int other_index = __shfl_xor_sync(0xffffffffu, index, offset);
      if (other_index != 0x7fffffff && (index == 0x7fffffff || other > best || (other == best && other_index < index)))
        best = other, index = other_index;
    }
#pragma unroll
    for (int i = 0; i < kRouterPerLane; ++i)
      if (i * 32 + lane == index) free[i] = false;
    if (lane == a) chosen = best, chosen_index = index;
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
