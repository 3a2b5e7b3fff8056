// The way to the experts in one launch, for few tokens: the sum over ranks where there are any, residual add, norm, the
// router's product and the choice. A cluster of 8 blocks serves one token: each multiplies an eighth of the router's rows,
// which a bulk copy brings to shared memory before the grid may read x; the first block sends this rank's part to the
// others (unless who computed it has), and every block sums and norms the token for itself; logits meet in the first block, where one warp chooses.
#include <algorithm>

#include "kernels/cuda/device/bulk.cuh"
#include "kernels/cuda/device/cluster.cuh"
#include "kernels/cuda/device/peer.cuh"
#include "kernels/cuda/device/ptx.cuh"
#include "kernels/cuda/device/route.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rows.h"

namespace tessera::cuda {
namespace {

constexpr int kCluster = 8;
constexpr int kMaxExperts = 256;
constexpr int kMaxThreads = 1024;
constexpr int kMaxTokens = 23;  // the row for more tokens begins there
constexpr int kLogitBytes = kMaxExperts * 4;
constexpr int kMaxSmem = 226 * 1024;  // beside what the kernel has of its own

struct FewArgs {
  void* residual;
  const void* delta;
  AnyVector norm_weight;
  const void* router;  // [E, H]
  AnyVector bias;
  void *normed, *logits;
  int32_t* indices;
  float* weights;
  int hidden, experts, active;
  float eps;
  bool round_before_weight;
  RouterMode mode;
  bool sent;
};

constexpr int64_t smem_bytes(int64_t hidden, int64_t experts) {
  return kLogitBytes + hidden * 2 * (ceil_div(experts, kCluster) + 1);
}

// Grid: (kCluster, T). A thread owns 8 columns of the token. Dynamic shared memory: logits,
// the normed token, the block's rows of the router. kPeers 1: no other ranks.
template <class T, int kPeers>
__global__ void __launch_bounds__(kMaxThreads) norm_and_route(PeerView v, FewArgs a) {
  __shared__ float scratch[32], bias[kMaxExperts / kCluster];
  __shared__ uint64_t arrived;
  uint32_t logits = dynamic_smem(), normed = logits + kLogitBytes, rows = normed + a.hidden * 2;
  uint32_t barrier = smem_address(&arrived);
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, column = threadIdx.x * 8;
  int share = (a.experts + kCluster - 1) / kCluster, first = blockIdx.x * share, count = min(share, a.experts - first);
  int warps = blockDim.x / 32;
  bool leader = blockIdx.x == 0, owner = column < a.hidden;
  int64_t token = blockIdx.y, at = token * a.hidden + column;
  cluster_arrive();  // nobody writes into a block that has not started
  if (threadIdx.x == 0 && count > 0) {
    mbarrier_init(barrier, 1);
    mbarrier_init_fence();
    uint32_t bytes = static_cast<uint32_t>(count * a.hidden * 2);
    mbarrier_expect(barrier, bytes);
    bulk_copy(rows, static_cast<const T*>(a.router) + static_cast<int64_t>(first) * a.hidden, bytes, barrier);
  }
  float weight[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) weight[i] = owner ? a.norm_weight.at(column + i) : 0.0f;
  for (int e = static_cast<int>(threadIdx.x); e < count; e += blockDim.x) bias[e] = a.bias.at(first + e);
  allow_next_grid();
  wait_for_previous_grid();

  uint32_t call = 0;
  if constexpr (kPeers > 1) call = this_call(v);
  uint4 residual{}, out;
  float x[8] = {};
  float squares = 0.0f;
  if (owner) {
    residual = load_act(static_cast<const T*>(a.residual) + at);
    uint32_t* r = reinterpret_cast<uint32_t*>(&residual);
    if (a.delta != nullptr) {
      uint4 delta = load_act(static_cast<const T*>(a.delta) + at);
      if constexpr (kPeers > 1) {
        if (leader && !a.sent) push_vector<kPeers>(v, call, at / 8, delta);
        uint4 all[kPeers];
        float sum[8];
        pull_vectors<kPeers>(v, call, at / 8, delta, all);
        sum_vectors<T, kPeers>(all, v.size, sum);
        delta = to_vector<T>(sum);
      }
      const uint32_t* d = reinterpret_cast<const uint32_t*>(&delta);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float2 u = unpack2<T>(r[i]), v = unpack2<T>(d[i]);
        r[i] = pack2<T>(u.x + v.x, u.y + v.y);
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float2 u = unpack2<T>(r[i]);
      x[2 * i] = u.x;
      x[2 * i + 1] = u.y;
      squares += u.x * u.x + u.y * u.y;
    }
  }
  float inverse = rsqrtf(block_sum(squares, scratch) / static_cast<float>(a.hidden) + a.eps);
  if constexpr (kPeers > 1)
    if (threadIdx.x == 0) leave_call(v, call);  // after a barrier: all threads know the number
  if (owner) {
    uint32_t* o = reinterpret_cast<uint32_t*>(&out);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      x[i] *= inverse;
      if (a.round_before_weight) x[i] = round_to<T>(x[i]);
      x[i] *= weight[i];
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) o[i] = pack2<T>(x[2 * i], x[2 * i + 1]);
    store_smem(normed + column * 2, out);
    if (leader) *reinterpret_cast<uint4*>(static_cast<T*>(a.normed) + at) = out;
  }
  __syncthreads();
  cluster_wait();
  for (int e = warp; e < count; e += warps) {
    mbarrier_wait(barrier, 0);
    int expert = first + e;
    uint32_t row = rows + e * a.hidden * 2;
    float sum = 0.0f;
    for (int i = lane; i < a.hidden / 8; i += 32) {
      uint4 w = load_smem(row + i * 16), v = load_smem(normed + i * 16);
      const uint32_t *ws = reinterpret_cast<const uint32_t*>(&w), *vs = reinterpret_cast<const uint32_t*>(&v);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        float2 u = unpack2<T>(ws[j]), y = unpack2<T>(vs[j]);
        sum += u.x * y.x + u.y * y.y;
      }
    }
    sum = warp_sum(sum) + bias[e];
    if (lane == 0) {
      T logit = from_float<T>(sum);
      static_cast<T*>(a.logits)[token * a.experts + expert] = logit;
      store_cluster_float(logits + expert * 4, 0, to_float(logit));
    }
  }
  cluster_arrive();
  cluster_wait();
  // Every block of the cluster has read the residual.
  if (!leader) return;
  if (owner && a.delta != nullptr) *reinterpret_cast<uint4*>(static_cast<T*>(a.residual) + at) = residual;
  if (warp != warps - 1) return;
  float logit[kRouterPerLane];
#pragma unroll
  for (int i = 0; i < kRouterPerLane; ++i)
    logit[i] = i * 32 + lane < a.experts ? load_smem_float(logits + (i * 32 + lane) * 4) : -INFINITY;
  route_token<T>(logit, a.mode, a.experts, a.active, a.indices + token * a.active, a.weights + token * a.active);
}

bool aligned(const Tensor& t) {
  return reinterpret_cast<uintptr_t>(t.data) % 16 == 0;
}

Verdict supports(const NormRouterArgs& a) {
  if (!on_gpu(a.residual)) return {"the tensors are not on a CUDA device"};
  if (!is_16_bit(a.residual.dtype)) return {"activations are not BF16 or F16"};
  if (a.router.format != WeightFormat::kPlain || a.router.values.dtype != a.residual.dtype)
    return {"weights are not of the activations' type"};
  if (a.residual.dim(0) > kMaxTokens) return {"more than 23 tokens"};
  if (a.residual.dim(1) % 8 != 0) return {"the hidden size is not a multiple of 8"};
  if (a.residual.dim(1) > 8 * kMaxThreads) return {"the hidden size is above 8192"};
  if (smem_bytes(a.residual.dim(1), a.logits.dim(1)) > kMaxSmem) return {"an eighth of the router does not fit shared memory"};
  if (a.logits.dim(1) > kMaxExperts) return {"more than 256 experts"};
  if (a.indices.dim(1) > kRouterMaxActive) return {"more than 16 active experts"};
  if (!aligned(a.residual) || !aligned(a.delta) || !aligned(a.normed) || !aligned(a.router.values))
    return {"an operand is not 16-byte aligned"};
  if (a.communicator == nullptr) return kAccepted;
  const PeerView* view = peer_view(a.communicator);
  if (view == nullptr) return {"the ranks do not reach each other's memory"};
  if (a.residual.dtype != DType::kBF16) return {"activations that ranks sum are not BF16"};
  if (a.residual.bytes() > view->one_step_bytes) return {"the message is too large for one step"};
  return kAccepted;
}

void run(const NormRouterArgs& a, Stream& stream) {
  int64_t tokens = a.residual.dim(0);
  if (tokens == 0) return;
  FewArgs f{a.residual.data,
            a.delta.data,
            {a.norm_weight.data, a.norm_weight.dtype},
            a.router.values.data,
            {a.router_bias.data, a.router_bias.dtype},
            a.normed.data,
            a.logits.data,
            a.indices.i32(),
            a.weights.f32(),
            static_cast<int>(a.residual.dim(1)),
            static_cast<int>(a.logits.dim(1)),
            static_cast<int>(a.indices.dim(1)),
            a.eps,
            a.round_before_weight,
            a.mode,
            a.sent};
  dispatch_16_bit(a.residual.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    auto go = [&](const PeerView& view, auto peers) {
      auto* kernel = norm_and_route<T, decltype(peers)::value>;
      allow_smem(kernel, kMaxSmem);
      divide_like_router(kernel);
      // A thread for 8 columns each, and a warp for each of the block's experts.
      const int64_t warps = std::max(ceil_div(f.hidden, 256), std::min<int64_t>(ceil_div(f.experts, kCluster), kMaxThreads / 32));
      launch_clusters("norm and router", kernel, dim3(kCluster, tokens), dim3(warps * 32),
                      smem_bytes(f.hidden, f.experts), kCluster, stream, view, f);
    };
    if (a.communicator == nullptr) return go({}, std::integral_constant<int, 1>());
    const PeerView& view = *peer_view(a.communicator);
    dispatch_peers(view.size, [&](auto peers) { go(view, peers); });
  });
}

}  // namespace

KernelRow<NormRouterArgs> norm_router_few_row() {
  return {"norm_router_16bit_few_sm90", DeviceType::kCuda, "a cluster a token, all in one launch: up to 23 tokens", supports, nullptr, run, true};
}

}  // namespace tessera::cuda
