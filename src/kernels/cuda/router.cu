// Top A of E logits with weights, one warp a token. Ties go to the lower index; NaN counts as the smallest value, so the
// indices are always valid.
#include "kernels/cuda/device/ptx.cuh"
#include "kernels/cuda/device/route.cuh"
#include "kernels/cuda/device/value.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rows.h"

namespace tessera::cuda {
namespace {

template <class T>
__global__ void router_kernel(const T* logits, RouterMode mode, int experts, int active, int32_t* indices, float* weights,
                              int tokens) {
  allow_next_grid();
  wait_for_previous_grid();
  int token = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (token >= tokens) return;
  float v[kRouterPerLane];
#pragma unroll
  for (int i = 0; i < kRouterPerLane; ++i) {
    int e = i * 32 + lane;
    v[i] = e < experts ? to_float(logits[static_cast<int64_t>(token) * experts + e]) : -INFINITY;
  }
  route_token<T>(v, mode, experts, active, indices + static_cast<int64_t>(token) * active,
                 weights + static_cast<int64_t>(token) * active);
}

Verdict supports(const RouterArgs& a) {
  if (!on_gpu(a.logits)) return {"the tensors are not on a CUDA device"};
  if (!is_float(a.logits.dtype)) return {"logits are not F32, BF16 or F16"};
  if (a.logits.dim(1) > 32 * kRouterPerLane) return {"more than 256 experts"};
  if (a.indices.dim(1) > kRouterMaxActive) return {"more than 16 active experts"};
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
