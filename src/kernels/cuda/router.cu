// Top A of E logits with weights, one warp a token. Ties go to the lower index; NaN counts as the smallest value, so the
// indices are always valid.
#include "kernels/cuda/device/ptx.cuh"
#include "kernels/cuda/device/reduce.cuh"
#include "kernels/cuda/device/value.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rows.h"

namespace tessera::cuda {
namespace {

constexpr int kPerLane = 8;
constexpr int kMaxActive = 16;

template <class T>
__global__ void router_kernel(const T* logits, RouterMode mode, int experts, int active, int32_t* indices, float* weights,
                              int tokens) {
  wait_for_previous_grid();
  allow_next_grid();
  int token = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (token >= tokens) return;
  float v[kPerLane];
  bool free[kPerLane];
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    int e = i * 32 + lane;
    free[i] = e < experts;
    float x = free[i] ? to_float(logits[static_cast<int64_t>(token) * experts + e]) : -INFINITY;
    v[i] = isnan(x) ? -INFINITY : x;
  }
  float chosen = 0.0f;  // lane a keeps the a-th
  int chosen_index = 0;
  for (int a = 0; a < active; ++a) {
    float best = -INFINITY;
    int index = 0x7fffffff;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
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
    for (int i = 0; i < kPerLane; ++i)
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
    for (int i = 0; i < kPerLane; ++i)
      if (i * 32 + lane < experts) own += __expf(v[i] - top);
    sum = warp_sum(own);
  }
  float weight = power / sum;
  if (mode == RouterMode::kTopKOfSoftmaxNormalised) weight /= warp_sum(weight);
  if (lane < active) {
    indices[static_cast<int64_t>(token) * active + lane] = chosen_index;
    weights[static_cast<int64_t>(token) * active + lane] = round_to<T>(weight);
  }
}

Verdict supports(const RouterArgs& a) {
  if (!on_gpu(a.logits)) return {"the tensors are not on a CUDA device"};
  if (!is_float(a.logits.dtype)) return {"logits are not F32, BF16 or F16"};
  if (a.logits.dim(1) > 32 * kPerLane) return {"more than 256 experts"};
  if (a.indices.dim(1) > kMaxActive) return {"more than 16 active experts"};
  return kAccepted;
}

void run(const RouterArgs& a, Stream& stream) {
  int64_t tokens = a.logits.dim(0);
  if (tokens == 0) return;
  int64_t warps = tokens < 4 ? tokens : 4;
  dispatch_act(a.logits.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    launch("router", router_kernel<T>, dim3(ceil_div(tokens, warps)), dim3(32 * warps), 0, stream, a.logits.as<T>(), a.mode,
           static_cast<int>(a.logits.dim(1)), static_cast<int>(a.indices.dim(1)), a.indices.i32(), a.weights.f32(),
           static_cast<int>(tokens));
  });
}

}  // namespace

KernelRow<RouterArgs> router_row() {
  return {"router_cuda", DeviceType::kCuda, "one warp a token, up to 256 experts", supports, nullptr, run};
}

}  // namespace tessera::cuda
