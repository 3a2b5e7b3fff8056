// The sum over ranks, the residual add and the norm in one launch: a block a token sends its part to the other ranks,
// sums what they sent in rank order, and goes on with the sums in registers.
#include "kernels/cuda/device/peer.cuh"
#include "kernels/cuda/device/ptx.cuh"
#include "kernels/cuda/device/reduce.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rows.h"

namespace tessera::cuda {
namespace {

constexpr int kMaxThreads = 1024;

struct NormArgs {
  void* residual;
  const void* delta;
  AnyVector weight;
  void* out;
  int n;
  float eps;
  bool round_before_weight;
  bool sent;
};

template <class T, int kPeers>
__global__ void __launch_bounds__(kMaxThreads) all_reduce_norm(PeerView v, NormArgs a) {
  constexpr int kVector = 16 / sizeof(T);
  __shared__ float scratch[32];
  const int vectors = a.n / kVector, at = static_cast<int>(threadIdx.x);
  const bool mine = at < vectors;
  float weight[kVector];
#pragma unroll
  for (int j = 0; j < kVector; ++j) weight[j] = mine ? a.weight.at(at * kVector + j) : 0.0f;
  allow_next_grid();
  wait_for_previous_grid();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * vectors + at;
  const uint32_t call = this_call(v);
  float x[kVector] = {};
  float squares = 0.0f;
  if (mine) {
    const uint4 own = static_cast<const uint4*>(a.delta)[i];
    const uint4 before = static_cast<const uint4*>(a.residual)[i];
    if (!a.sent) push_vector<kPeers>(v, call, i, own);
    uint4 all[kPeers];
    pull_vectors<kPeers>(v, call, i, own, all);
    float sum[kVector];
    sum_vectors<T, kPeers>(all, v.size, sum);
    const T* r = reinterpret_cast<const T*>(&before);
#pragma unroll
    for (int j = 0; j < kVector; ++j) {
      x[j] = round_to<T>(to_float(r[j]) + round_to<T>(sum[j]));
      squares += x[j] * x[j];
    }
    static_cast<uint4*>(a.residual)[i] = to_vector<T>(x);
  }
  const float inverse = rsqrtf(block_sum(squares, scratch) / static_cast<float>(a.n) + a.eps);
  if (threadIdx.x == 0) leave_call(v, call);  // after a barrier: all threads know the number
  if (!mine) return;
#pragma unroll
  for (int j = 0; j < kVector; ++j) {
    float y = x[j] * inverse;
    if (a.round_before_weight) y = round_to<T>(y);
    x[j] = y * weight[j];
  }
  static_cast<uint4*>(a.out)[i] = to_vector<T>(x);
}

bool aligned(const Tensor& t) {
  return reinterpret_cast<uintptr_t>(t.data) % 16 == 0;
}

Verdict supports(const AllReduceNormArgs& a) {
  const RmsNormArgs& n = a.norm;
  const PeerView* view = peer_view(a.communicator);
  if (view == nullptr) return {"the ranks do not reach each other's memory"};
  if (!on_gpu(n.residual)) return {"the tensors are not on a CUDA device"};
  if (n.residual.dtype != DType::kBF16 && n.residual.dtype != DType::kF32) return {"activations are not BF16 or F32"};
  const int64_t width = n.weight.dim(0), vector = 16 / dtype_size(n.residual.dtype);
  if (width % vector != 0 || width / vector > kMaxThreads) return {"a row is not up to 1024 vectors of 16 bytes"};
  if (n.residual.numel() / width > kMaxNormedTokens) return {"more than 256 tokens"};
  if (n.residual.bytes() > view->one_step_bytes) return {"the message is too large for one step"};
  if (!aligned(n.residual) || !aligned(n.delta) || !aligned(n.out)) return {"an operand is not 16-byte aligned"};
  return kAccepted;
}

void run(const AllReduceNormArgs& a, Stream& stream) {
  const RmsNormArgs& n = a.norm;
  const int64_t width = n.weight.dim(0), tokens = n.residual.numel() / width;
  if (tokens == 0) return;
  const PeerView& view = *peer_view(a.communicator);
  const NormArgs args{n.residual.data, n.delta.data, {n.weight.data, n.weight.dtype}, n.out.data, static_cast<int>(width),
                      n.eps, n.round_before_weight, a.sent};
  auto go = [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const int64_t threads = ceil_div(width * static_cast<int64_t>(sizeof(T)), 16 * 32) * 32;
    dispatch_peers(view.size, [&](auto peers) {
      launch("all_reduce_norm", all_reduce_norm<T, decltype(peers)::value>, dim3(static_cast<unsigned>(tokens)),
             dim3(static_cast<unsigned>(threads)), 0, stream, view, args);
    });
  };
  if (n.residual.dtype == DType::kF32) return go(static_cast<float*>(nullptr));
  go(static_cast<__nv_bfloat16*>(nullptr));
}

}  // namespace

KernelRow<AllReduceNormArgs> all_reduce_norm_row() {
  return {"all_reduce_norm_peer", DeviceType::kCuda, "one step over NVLink, up to 256 tokens", supports, nullptr, run};
}

}  // namespace tessera::cuda
