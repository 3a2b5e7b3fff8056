// The way to the experts in two launches: the norm, then the router's product and the choice. A cluster serves 8 tokens: a
// block multiplies 16 of the router's rows, 16 warps sharing K with all of their weights in flight before the grid may
// read x; logits meet through distributed shared memory, and a warp a token chooses.
#include <bit>

#include "kernels/cuda/device/cluster.cuh"
#include "kernels/cuda/device/route.cuh"
#include "kernels/cuda/device/row_product.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rows.h"

namespace tessera::cuda {
namespace {

constexpr int kWarps = 16;
constexpr int kTokens = 8;  // of a cluster
constexpr int kMaxExperts = 128;
constexpr int kMaxTokens = 512;
constexpr int64_t kMinTokens = 24;  // measured: 5.1 us apart against 7.3 at 1 token, 10.1 against 6.4 at 64
constexpr int kPartialBytes = kWarps * 512;

struct RouteArgs {
  const void* x;       // [T, H]
  const void* router;  // [E, H]
  AnyVector bias;
  void* logits;  // [T, E]
  int32_t* indices;
  float* weights;
  int tokens, hidden, experts, active;
  RouterMode mode;
};

// Grid: (blocks of a cluster, ceil(T / 8)). Dynamic shared memory: each warp's accumulators, then logits [8][kMaxExperts].
template <class T, int kDepth>
__global__ void __launch_bounds__(32 * kWarps) route(RouteArgs a) {
  uint32_t partial = dynamic_smem(), logits = partial + kPartialBytes;
  cluster_arrive();  // nobody writes into a block that has not started
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
  int rank = blockIdx.x, blocks = gridDim.x, token0 = blockIdx.y * kTokens, tokens = min(kTokens, a.tokens - token0);
  int row = rank * 16 + 2 * g, steps = a.hidden / 32;
  int begin = steps * warp / kWarps, count = steps * (warp + 1) / kWarps - begin;
  const T* w = static_cast<const T*>(a.router) + 32 * begin + 8 * c;
  const T* first = static_cast<const T*>(a.x) + static_cast<int64_t>(token0) * a.hidden + 32 * begin;
  const T* x[1] = {first + static_cast<int64_t>(min(g, tokens - 1)) * a.hidden + 8 * c};
  float acc[1][4];
  row_product<T, 1, kDepth>(acc, w + static_cast<int64_t>(min(row, a.experts - 1)) * a.hidden,
                            w + static_cast<int64_t>(min(row + 1, a.experts - 1)) * a.hidden, count, x, [&] {
                              wait_for_previous_grid();
                              allow_next_grid();
                              int lines = count / 2 + 1;
                              for (int i = lane; i < tokens * lines; i += 32)
                                touch(first + static_cast<int64_t>(i / lines) * a.hidden + min(i % lines * 64, count * 32 - 8));
                            });
  store_smem(partial + (warp * 32 + lane) * 16,
             {__float_as_uint(acc[0][0]), __float_as_uint(acc[0][1]), __float_as_uint(acc[0][2]), __float_as_uint(acc[0][3])});
  __syncthreads();
  cluster_wait();
  // Thread (token, row) adds the warps' shares.
  if (threadIdx.x < kTokens * 16) {
    int token = threadIdx.x / 16, r = threadIdx.x % 16, expert = rank * 16 + r;
    uint32_t at = partial + ((r / 2 * 4 + token / 2) * 4 + r % 2 * 2 + token % 2) * 4;
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kWarps; ++i) sum += load_smem_float(at + i * 512);
    if (token < tokens && expert < a.experts) {
      T logit = from_float<T>(sum + a.bias.at(expert));
      static_cast<T*>(a.logits)[static_cast<int64_t>(token0 + token) * a.experts + expert] = logit;
      store_cluster_float(logits + (token * kMaxExperts + expert) * 4, token % blocks, to_float(logit));
    }
  }
  cluster_arrive();
  cluster_wait();
  int token = rank + warp * blocks;
  if (token >= tokens) return;
  float v[kRouterPerLane];
#pragma unroll
  for (int i = 0; i < kRouterPerLane; ++i)
    v[i] = i * 32 + lane < a.experts ? load_smem_float(logits + (token * kMaxExperts + i * 32 + lane) * 4) : -INFINITY;
  int64_t to = static_cast<int64_t>(token0 + token) * a.active;
  route_token<T>(v, a.mode, a.experts, a.active, a.indices + to, a.weights + to);
}

RmsNormArgs norm_of(const NormRouterArgs& a) {
  return {.residual = a.residual,
          .delta = a.delta,
          .weight = a.norm_weight,
          .eps = a.eps,
          .round_before_weight = a.round_before_weight,
          .out = a.normed};
}

AllReduceNormArgs summed_norm_of(const NormRouterArgs& a) {
  return {.norm = norm_of(a), .communicator = a.communicator, .sent = a.sent};
}

Verdict supports(const NormRouterArgs& a) {
  if (Verdict v = a.communicator != nullptr ? all_reduce_norm_row().supports(summed_norm_of(a)) : rms_norm_row().supports(norm_of(a)); !v)
    return v;
  if (!is_16_bit(a.residual.dtype)) return {"activations are not BF16 or F16"};
  if (a.router.format != WeightFormat::kPlain || a.router.values.dtype != a.residual.dtype)
    return {"weights are not of the activations' type"};
  if (a.residual.dim(0) < kMinTokens) return {"few tokens: the ops one by one are faster"};
  if (a.residual.dim(0) > kMaxTokens) return {"more than 512 tokens"};
  if (a.residual.dim(1) % 32 != 0 || a.residual.dim(1) < 32 * kWarps) return {"the hidden size is not a multiple of 32 from 512 on"};
  if (a.logits.dim(1) > kMaxExperts) return {"more than 128 experts"};
  if (a.indices.dim(1) > kRouterMaxActive) return {"more than 16 active experts"};
  return kAccepted;
}

void run(const NormRouterArgs& a, Stream& stream) {
  int64_t tokens = a.residual.dim(0);
  if (tokens == 0) return;
  if (a.communicator != nullptr) {
    all_reduce_norm_row().launch(summed_norm_of(a), stream);
  } else {
    rms_norm_row().launch(norm_of(a), stream);
  }
  RouteArgs r{a.normed.data,
              a.router.values.data,
              {a.router_bias.data, a.router_bias.dtype},
              a.logits.data,
              a.indices.i32(),
              a.weights.f32(),
              static_cast<int>(tokens),
              static_cast<int>(a.residual.dim(1)),
              static_cast<int>(a.logits.dim(1)),
              static_cast<int>(a.indices.dim(1)),
              a.mode};
  unsigned cluster = std::bit_ceil(static_cast<unsigned>(ceil_div(r.experts, 16)));
  dispatch_16_bit(a.residual.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    auto kernel = r.hidden <= 32 * kWarps * 6 ? route<T, 6> : route<T, 8>;
    launch_clusters("router", kernel, dim3(cluster, ceil_div(tokens, kTokens)), dim3(32 * kWarps),
                    kPartialBytes + kTokens * kMaxExperts * 4, cluster, stream, r);
  });
}

}  // namespace

KernelRow<NormRouterArgs> norm_router_row() {
  return {"norm_router_16bit_sm90", DeviceType::kCuda, "norm, then a cluster for 8 tokens: 24 to 512 tokens", supports, nullptr, run, true};
}

}  // namespace tessera::cuda
