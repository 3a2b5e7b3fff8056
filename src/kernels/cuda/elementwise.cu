// embed, add, silu_mul: one pass each, any activation type, 16-byte accesses where the width and addresses allow.
#include "kernels/cuda/device/ptx.cuh"
#include "kernels/cuda/device/value.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rows.h"

namespace tessera::cuda {
namespace {

template <class T>
struct alignas(16) Pack {
  static constexpr int kSize = 16 / sizeof(T);
  T v[kSize];
};

bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// One block a token; the table's type may differ from the output's. Nobody may begin before this has waited: decode
// attention counts on it.
template <class T, bool kSameType>
__global__ void embed_kernel(const int32_t* ids, AnyVector table, T* out, int64_t width) {
  wait_for_previous_grid();
  allow_next_grid();
  int64_t t = blockIdx.x;
  int64_t row = static_cast<int64_t>(ids[t]) * width;
  if constexpr (kSameType) {
    const auto* from = reinterpret_cast<const Pack<T>*>(static_cast<const T*>(table.data) + row);
    auto* to = reinterpret_cast<Pack<T>*>(out + t * width);
    for (int64_t i = threadIdx.x; i < width / Pack<T>::kSize; i += blockDim.x) to[i] = from[i];
  } else {
    for (int64_t i = threadIdx.x; i < width; i += blockDim.x) out[t * width + i] = from_float<T>(table.at(row + i));
  }
}

enum class Op { kAdd, kSiluMul };

template <Op kOp>
__device__ __forceinline__ float combine(float a, float b) {
  if constexpr (kOp == Op::kAdd) {
    return a + b;
  } else {
    return a / (1.0f + __expf(-a)) * b;
  }
}

template <Op kOp, class T>
__global__ void binary_kernel(const T* a, const T* b, T* out, int64_t count, bool vectors) {
  wait_for_previous_grid();
  allow_next_grid();
  int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  int64_t packs = vectors ? count / Pack<T>::kSize : 0;
  for (int64_t i = thread; i < packs; i += stride) {
    Pack<T> x = reinterpret_cast<const Pack<T>*>(a)[i], y = reinterpret_cast<const Pack<T>*>(b)[i];
#pragma unroll
    for (int j = 0; j < Pack<T>::kSize; ++j) x.v[j] = from_float<T>(combine<kOp>(to_float(x.v[j]), to_float(y.v[j])));
    reinterpret_cast<Pack<T>*>(out)[i] = x;
  }
  for (int64_t i = packs * Pack<T>::kSize + thread; i < count; i += stride)
    out[i] = from_float<T>(combine<kOp>(to_float(a[i]), to_float(b[i])));
}

template <Op kOp>
void run_binary(const char* name, const Tensor& a, const Tensor& b, const Tensor& out, Stream& stream) {
  int64_t count = a.numel();
  if (count == 0) return;
  bool vectors = aligned(a.data) && aligned(b.data) && aligned(out.data);
  dispatch_act(a.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    int64_t blocks = ceil_div(count, 256 * (vectors ? Pack<T>::kSize : 1));
    launch(name, binary_kernel<kOp, T>, dim3(blocks < 4096 ? blocks : 4096), dim3(256), 0, stream, a.as<T>(), b.as<T>(),
           out.as<T>(), count, vectors);
  });
}

void run_embed(const EmbedArgs& a, Stream& stream) {
  if (a.ids.numel() == 0) return;
  int64_t width = a.table.dim(1);
  dispatch_act(a.out.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    bool same = a.table.dtype == a.out.dtype && width % Pack<T>::kSize == 0 && aligned(a.table.data) && aligned(a.out.data);
    auto kernel = same ? embed_kernel<T, true> : embed_kernel<T, false>;
    launch("embed", kernel, dim3(a.ids.numel()), dim3(128), 0, stream, a.ids.i32(), AnyVector{a.table.data, a.table.dtype},
           a.out.as<T>(), width);
  });
}

Verdict gpu_float(const Tensor& t) {
  if (!on_gpu(t)) return {"the tensors are not on a CUDA device"};
  if (!is_float(t.dtype)) return {"activations are not F32, BF16 or F16"};
  return kAccepted;
}

// Grid: (column blocks, rows, parts).
__global__ void join_columns_kernel(const float* parts, int64_t step, int64_t wide, int64_t narrow, int64_t wide_parts, float* out,
                                    int64_t v) {
  wait_for_previous_grid();
  allow_next_grid();
  int64_t p = blockIdx.z, r = blockIdx.y, column = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  int64_t width = p < wide_parts ? wide : narrow;
  int64_t first = p < wide_parts ? p * wide : wide_parts * wide + (p - wide_parts) * narrow;
  if (column < width) out[r * v + first + column] = parts[p * step + r * width + column];
}

void run_join_columns(const JoinColumnsArgs& a, Stream& stream) {
  if (a.out.numel() == 0) return;
  launch("join columns", join_columns_kernel, dim3(ceil_div(a.wide, 256), a.out.dim(0), a.parts.dim(0)), dim3(256), 0, stream,
         a.parts.f32(), a.parts.numel() / a.parts.dim(0), a.wide, a.narrow, a.wide_parts, a.out.f32(), a.out.dim(1));
}

}  // namespace

KernelRow<EmbedArgs> embed_row() {
  return {"embed_cuda", DeviceType::kCuda, "row gather", [](const EmbedArgs& a) { return gpu_float(a.out); }, nullptr, run_embed};
}

KernelRow<AddArgs> add_row() {
  return {"add_cuda", DeviceType::kCuda, "one pass", [](const AddArgs& a) { return gpu_float(a.x); }, nullptr,
          [](const AddArgs& a, Stream& s) { run_binary<Op::kAdd>("add", a.x, a.delta, a.x, s); }};
}

KernelRow<SiluMulArgs> silu_mul_row() {
  return {"silu_mul_cuda", DeviceType::kCuda, "one pass", [](const SiluMulArgs& a) { return gpu_float(a.out); }, nullptr,
          [](const SiluMulArgs& a, Stream& s) { run_binary<Op::kSiluMul>("silu_mul", a.gate, a.up, a.out, s); }};
}

KernelRow<JoinColumnsArgs> join_columns_row() {
  return {"join_columns_f32_cuda", DeviceType::kCuda, "copies rows",
          [](const JoinColumnsArgs& a) { return on_gpu(a.parts) ? kAccepted : Verdict{"the tensors are not on a CUDA device"}; }, nullptr,
          run_join_columns};
}

}  // namespace tessera::cuda
