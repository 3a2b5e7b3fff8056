// Residual add, norm, router product and choice of experts in one launch, for few tokens. A cluster of 8 blocks serves a
// token: each norms the whole row for itself and multiplies its share of the router's rows, whose weights it fetched
// before the grid might read activations; the first block gets all logits through distributed shared memory and chooses.
#include "kernels/cuda/device/cluster.cuh"
#include "kernels/cuda/device/ptx.cuh"
#include "kernels/cuda/device/route.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rows.h"

namespace tessera::cuda {
namespace {

constexpr int kCluster = 8;
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kMaxTokens = 64;
constexpr int kMaxHidden = 4096;
constexpr int kMaxExperts = 32 * kRouterPerLane;
constexpr int kPieces = kMaxHidden / 8 / kThreads;     // 16-byte pieces of the row a thread norms
constexpr int kHalfPieces = kMaxHidden / 8 / 2 / 32;   // 16-byte pieces of half a router row a lane multiplies
constexpr int kRowBytes = kMaxHidden * 2;

struct NormRouterKernelArgs {
  void* residual;  // [T, H]
  const void* delta;
  const void* norm_weight;  // [H]
  const void* router;       // [E, H]
  AnyVector bias;
  void* normed;  // [T, H]
  void* logits;  // [T, E]
  int32_t* indices;
  float* weights;
  int hidden, experts, active;
  float eps;
  bool round_before_weight;
  RouterMode mode;
};

// Dynamic shared memory: the normed row, then half logits [2][kMaxExperts]. Grid: (kCluster, T).
template <class T>
__global__ void __launch_bounds__(kThreads) norm_router(NormRouterKernelArgs a) {
  __shared__ float scratch[32];
  uint32_t row_smem = dynamic_smem(), logit_smem = row_smem + kRowBytes;
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int rank = blockIdx.x, token = blockIdx.y, pieces = a.hidden / 8;
  int share = (a.experts + kCluster - 1) / kCluster;  // experts of the block
  int first = rank * share, last = min(first + share, a.experts);
  // A task is half a row of the router. Task i: expert first + i / 2, half i % 2.
  int tasks = 2 * max(last - first, 0), middle = (pieces + 1) / 2;
  uint4 w[kHalfPieces];
  auto load_task = [&](int task) {
    const T* row = static_cast<const T*>(a.router) + static_cast<int64_t>(first + task / 2) * a.hidden;
    int begin = task % 2 == 0 ? 0 : middle, end = task % 2 == 0 ? middle : pieces;
#pragma unroll
    for (int i = 0; i < kHalfPieces; ++i) {
      int piece = begin + 32 * i + lane;
      w[i] = load_weights_if(row + 8 * min(piece, pieces - 1), task < tasks && piece < end);
    }
  };
  load_task(min(warp, max(tasks - 1, 0)));
  for (int task = warp + kWarps; task < tasks; task += kWarps) {
    const T* row = static_cast<const T*>(a.router) + static_cast<int64_t>(first + task / 2) * a.hidden + task % 2 * middle * 8;
    for (int i = lane; i < middle / 8; i += 32) prefetch_l2(row + 64 * i);
  }
  uint4 scale[kPieces];
#pragma unroll
  for (int i = 0; i < kPieces; ++i) {
    int piece = threadIdx.x + i * kThreads;
    scale[i] = load_weights_if(static_cast<const T*>(a.norm_weight) + 8 * min(piece, pieces - 1), piece < pieces);
  }
  wait_for_previous_grid();
  allow_next_grid();

  int64_t offset = static_cast<int64_t>(token) * a.hidden;
  T* residual = static_cast<T*>(a.residual) + offset;
  uint4 x[kPieces];
  float squares = 0.0f;
#pragma unroll
  for (int i = 0; i < kPieces; ++i) {
    int piece = threadIdx.x + i * kThreads;
    if (piece >= pieces) continue;
    x[i] = load_act(residual + 8 * piece);
    uint32_t* words = &x[i].x;
    uint4 d{0, 0, 0, 0};
    if (a.delta != nullptr) d = load_act(static_cast<const T*>(a.delta) + offset + 8 * piece);
    const uint32_t* added = &d.x;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      float2 v = unpack2<T>(words[j]), u = unpack2<T>(added[j]);
      if (a.delta != nullptr) words[j] = pack2<T>(v.x + u.x, v.y + u.y);
      v = unpack2<T>(words[j]);
      squares += v.x * v.x + v.y * v.y;
    }
  }
  float inverse = rsqrtf(block_sum(squares, scratch) / static_cast<float>(a.hidden) + a.eps);
  cluster_arrive();  // this block has read the residual
  uint4 normed[kPieces];
#pragma unroll
  for (int i = 0; i < kPieces; ++i) {
    int piece = threadIdx.x + i * kThreads;
    if (piece >= pieces) continue;
    const uint32_t *words = &x[i].x, *by = &scale[i].x;
    uint32_t* to = &normed[i].x;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      float2 v = unpack2<T>(words[j]), s = unpack2<T>(by[j]);
      v.x *= inverse;
      v.y *= inverse;
      if (a.round_before_weight) v.x = round_to<T>(v.x), v.y = round_to<T>(v.y);
      to[j] = pack2<T>(v.x * s.x, v.y * s.y);
    }
    store_smem(row_smem + 16 * piece, normed[i]);
  }
  __syncthreads();
  cluster_wait();  // so have the others: it may change
#pragma unroll
  for (int i = 0; i < kPieces; ++i) {
    int piece = threadIdx.x + i * kThreads;
    if (piece >= pieces || piece % kCluster != rank) continue;
    if (a.delta != nullptr) *reinterpret_cast<uint4*>(residual + 8 * piece) = x[i];
    *reinterpret_cast<uint4*>(static_cast<T*>(a.normed) + offset + 8 * piece) = normed[i];
  }

  for (int task = warp; task < tasks; task += kWarps) {
    if (task != warp) load_task(task);
    int begin = task % 2 == 0 ? 0 : middle;
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kHalfPieces; ++i) {
      uint4 v = load_smem(row_smem + 16 * min(begin + 32 * i + lane, pieces - 1));  // weights past the end are zero
      const uint32_t *p = &w[i].x, *q = &v.x;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        float2 s = unpack2<T>(p[j]), t = unpack2<T>(q[j]);
        sum += s.x * t.x + s.y * t.y;
      }
    }
    sum = warp_sum(sum);
    if (lane == 0) store_cluster_float(logit_smem + 4 * (task % 2 * kMaxExperts + first + task / 2), 0, sum);
  }
  cluster_arrive();
  cluster_wait();
  if (rank != 0 || warp != 0) return;
  float v[kRouterPerLane];
#pragma unroll
  for (int i = 0; i < kRouterPerLane; ++i) {
    int e = i * 32 + lane;
    if (e >= a.experts) continue;
    T logit = from_float<T>(load_smem_float(logit_smem + 4 * e) + load_smem_float(logit_smem + 4 * (kMaxExperts + e)) + a.bias.at(e));
    static_cast<T*>(a.logits)[static_cast<int64_t>(token) * a.experts + e] = logit;
    v[i] = to_float(logit);
  }
  route_token<T>(v, a.mode, a.experts, a.active, a.indices + static_cast<int64_t>(token) * a.active,
                 a.weights + static_cast<int64_t>(token) * a.active);
}

Verdict supports(const NormRouterArgs& a) {
  if (!on_gpu(a.residual)) return {"the tensors are not on a CUDA device"};
  if (!is_16_bit(a.residual.dtype)) return {"activations are not BF16 or F16"};
  if (a.router.format != WeightFormat::kPlain || a.router.values.dtype != a.residual.dtype || a.norm_weight.dtype != a.residual.dtype)
    return {"weights are not of the activations' type"};
  if (a.residual.dim(0) > kMaxTokens) return {"more than 64 tokens"};
  if (a.residual.dim(1) % 8 != 0 || a.residual.dim(1) > kMaxHidden) return {"the hidden size is not a multiple of 8 up to 4096"};
  if (a.logits.dim(1) > kMaxExperts) return {"more than 256 experts"};
  if (a.indices.dim(1) > kRouterMaxActive) return {"more than 16 active experts"};
  return kAccepted;
}

void run(const NormRouterArgs& a, Stream& stream) {
  int64_t tokens = a.residual.dim(0);
  if (tokens == 0) return;
  NormRouterKernelArgs k{a.residual.data,
                         a.delta.data,
                         a.norm_weight.data,
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
                         a.mode};
  dispatch_16_bit(a.residual.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    launch_clusters("norm_router", norm_router<T>, dim3(kCluster, tokens), dim3(kThreads), kRowBytes + 2 * kMaxExperts * 4, kCluster,
                    stream, k);
  });
}

}  // namespace

KernelRow<NormRouterArgs> norm_router_row() {
  return {"norm_router_16bit_sm90", DeviceType::kCuda, "a cluster of 8 blocks a token: up to 64 tokens", supports, nullptr, run};
}

}  // namespace tessera::cuda
