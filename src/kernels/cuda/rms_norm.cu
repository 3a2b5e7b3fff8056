// Residual add and RMS norm in one pass: one block a row, the row kept in registers between the two passes over it.
#include "kernels/cuda/device/ptx.cuh"
#include "kernels/cuda/device/reduce.cuh"
#include "kernels/cuda/device/value.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rows.h"

namespace tessera::cuda {
namespace {

struct NormArgs {
  void* residual;
  const void* delta;
  AnyVector weight;
  void* out;
  int n;
  float eps;
  bool round_before_weight;
};

// Element i of a thread's share is column (i / kVector) * blockDim * kVector + thread * kVector + i % kVector.
template <class T, int kVector, int kShares>
__global__ void rms_norm_kernel(NormArgs a) {
  allow_next_grid();
  wait_for_previous_grid();
  __shared__ float scratch[32];
  struct alignas(sizeof(T) * kVector) Pack {
    T v[kVector];
  };
  int64_t row = static_cast<int64_t>(blockIdx.x) * a.n;
  T* residual = static_cast<T*>(a.residual) + row;
  const T* delta = a.delta == nullptr ? nullptr : static_cast<const T*>(a.delta) + row;
  float x[kShares][kVector];
  float squares = 0.0f;
#pragma unroll
  for (int s = 0; s < kShares; ++s) {
    int column = (s * blockDim.x + threadIdx.x) * kVector;
    if (column >= a.n) continue;
    Pack r = *reinterpret_cast<const Pack*>(residual + column);
    if (delta != nullptr) {
      Pack d = *reinterpret_cast<const Pack*>(delta + column);
#pragma unroll
      for (int i = 0; i < kVector; ++i) r.v[i] = from_float<T>(to_float(r.v[i]) + to_float(d.v[i]));
      *reinterpret_cast<Pack*>(residual + column) = r;
    }
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      x[s][i] = to_float(r.v[i]);
      squares += x[s][i] * x[s][i];
    }
  }
  float inverse = rsqrtf(block_sum(squares, scratch) / static_cast<float>(a.n) + a.eps);
#pragma unroll
  for (int s = 0; s < kShares; ++s) {
    int column = (s * blockDim.x + threadIdx.x) * kVector;
    if (column >= a.n) continue;
    Pack o;
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      float v = x[s][i] * inverse;
      if (a.round_before_weight) v = round_to<T>(v);
      o.v[i] = from_float<T>(v * a.weight.at(column + i));
    }
    *reinterpret_cast<Pack*>(static_cast<T*>(a.out) + row + column) = o;
  }
}

constexpr int64_t kMaxWidth = 8192;

Verdict supports(const RmsNormArgs& a) {
  if (!on_gpu(a.residual)) return {"the tensors are not on a CUDA device"};
  if (!is_float(a.residual.dtype)) return {"activations are not F32, BF16 or F16"};
  if (a.weight.dim(0) > kMaxWidth) return {"rows are wider than 8192"};
  return kAccepted;
}

void run(const RmsNormArgs& a, Stream& stream) {
  int64_t n = a.weight.dim(0);
  int64_t rows = n == 0 ? 0 : a.residual.numel() / n;
  if (rows == 0) return;
  NormArgs args{a.residual.data, a.delta.data, {a.weight.data, a.weight.dtype}, a.out.data, static_cast<int>(n), a.eps,
                a.round_before_weight};
  auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  bool vectors = n % 8 == 0 && aligned(a.residual.data) && aligned(a.out.data) && aligned(a.delta.data);
  dispatch_act(a.residual.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    constexpr int kVector = 16 / sizeof(T);
    if (vectors && n <= 1024 * kVector) {
      int64_t threads = ceil_div(ceil_div(n, kVector), 32) * 32;
      launch("rms_norm", rms_norm_kernel<T, kVector, 1>, dim3(rows), dim3(threads), 0, stream, args);
    } else {
      int64_t threads = ceil_div(n < 1024 ? n : 1024, 32) * 32;
      launch("rms_norm", rms_norm_kernel<T, 1, 8>, dim3(rows), dim3(threads), 0, stream, args);
    }
  });
}

}  // namespace

KernelRow<RmsNormArgs> rms_norm_row() {
  return {"rms_norm_cuda", DeviceType::kCuda, "residual add and norm in one pass, up to 8192 wide", supports, nullptr, run};
}

}  // namespace tessera::cuda
