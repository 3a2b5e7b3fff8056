#include "kernels/cuda/moe_combine.h"

#include "kernels/cuda/device/peer.cuh"
#include "kernels/cuda/device/ptx.cuh"
#include "kernels/cuda/device/value.cuh"
#include "kernels/cuda/launch.h"

namespace tessera::cuda {
namespace {

using bf16 = __nv_bfloat16;

template <bool kSend>
__global__ void combine_kernel(PeerView peers, const int32_t* indices, const float* weights, const float* y, AnyVector bias, int first_expert, int experts,
                               int active, int h,
                               bf16* out, bf16* residual) {
  wait_for_previous_grid();
  allow_next_grid();
  [[maybe_unused]] uint32_t call = 0;
  if constexpr (kSend) call = this_call(peers);
  int64_t t = blockIdx.y;
  int column = (blockIdx.x * blockDim.x + threadIdx.x) * 2;
  if (column >= h) return;
  float2 sum = {0.0f, 0.0f};
  for (int s = 0; s < active; ++s) {
    int64_t pair = t * active + s;
    int expert = indices[pair] - first_expert;
    if (expert < 0 || expert >= experts) continue;
    float2 v = *reinterpret_cast<const float2*>(y + pair * h + column);
    int64_t bias_row = static_cast<int64_t>(expert) * h + column;
    float weight = weights[pair];
    sum.x += weight * (v.x + bias.at(bias_row));
    sum.y += weight * (v.y + bias.at(bias_row + 1));
  }
  uint32_t two = pack2<bf16>(sum.x, sum.y);
  uint32_t* to = reinterpret_cast<uint32_t*>((residual != nullptr ? residual : out) + t * h + column);
  if (residual != nullptr) {
    float2 rounded = unpack2<bf16>(two), before = unpack2<bf16>(*to);
    two = pack2<bf16>(before.x + rounded.x, before.y + rounded.y);
  }
  *to = two;
  if constexpr (kSend) {  // two lanes hold four columns; H is a multiple of 64, so whole warps are here
    uint32_t next = __shfl_down_sync(0xffffffffu, two, 1);
    if (threadIdx.x % 2 == 0) push_quad(peers, call, t * h + column, two, next);
  }
}

}  // namespace

void moe_combine(const MoeArgs& a, const Tensor& residual, const float* y, Stream& stream, const PeerView* peers) {
  int64_t tokens = a.x.dim(0), h = a.x.dim(1);
  launch("moe combine", peers != nullptr ? combine_kernel<true> : combine_kernel<false>, dim3(ceil_div(h, 512), tokens), dim3(256), 0, stream,
         peers != nullptr ? *peers : PeerView{}, a.indices.i32(), a.weights.f32(), y, AnyVector{a.down_bias.data, a.down_bias.dtype},
         static_cast<int>(a.first_expert), static_cast<int>(a.down.experts), static_cast<int>(a.indices.dim(1)), static_cast<int>(h),
         a.out.as<bf16>(), residual.as<bf16>());
}

Verdict fits_packets(const MoeSendArgs& a) {
  const PeerView* view = peer_view(a.communicator);
  if (view == nullptr) return {"the ranks do not reach each other's memory"};
  if (a.moe.x.dim(0) > kMaxNormedTokens) return {"more tokens than a norm's launch sums"};
  if (a.moe.out.bytes() > view->one_step_bytes) return {"the message is too large for one step"};
  return kAccepted;
}

}  // namespace tessera::cuda
