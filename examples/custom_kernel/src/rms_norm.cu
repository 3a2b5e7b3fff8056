// rms_norm(out, x, weight, eps) on a GPU, on the caller's stream. One block a token.
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <tvm/ffi/extra/c_env_api.h>

#include "common.h"

namespace {

constexpr int kThreads = 256;

__device__ float get(const float* p, int64_t i) { return p[i]; }
__device__ float get(const __nv_bfloat16* p, int64_t i) { return __bfloat162float(p[i]); }
__device__ void put(float* p, int64_t i, float v) { p[i] = v; }
__device__ void put(__nv_bfloat16* p, int64_t i, float v) { p[i] = __float2bfloat16_rn(v); }

template <class Act, class Weight>
__global__ void norm(Act* out, const Act* x, const Weight* weight, int64_t n, float eps) {
  __shared__ float sums[kThreads / 32];
  const int64_t first = static_cast<int64_t>(blockIdx.x) * n;
  float squares = 0;
  for (int64_t i = threadIdx.x; i < n; i += kThreads) {
    const float v = get(x, first + i);
    squares += v * v;
  }
  for (int lane = 16; lane > 0; lane /= 2) squares += __shfl_xor_sync(0xffffffffu, squares, lane);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = squares;
  __syncthreads();
  float sum = 0;
  for (int w = 0; w < kThreads / 32; ++w) sum += sums[w];
  const float inverse = rsqrtf(sum / static_cast<float>(n) + eps);
  for (int64_t i = threadIdx.x; i < n; i += kThreads) put(out, first + i, get(x, first + i) * inverse * get(weight, i));
}

template <class Act, class Weight>
void launch(TensorView out, TensorView x, TensorView weight, float eps) {
  if (x.size(0) == 0) return;
  auto stream = static_cast<cudaStream_t>(TVMFFIEnvGetStream(kDLCUDA, x.device().device_id));
  norm<<<static_cast<unsigned>(x.size(0)), kThreads, 0, stream>>>(
      static_cast<Act*>(out.data_ptr()), static_cast<const Act*>(x.data_ptr()),
      static_cast<const Weight*>(weight.data_ptr()), x.size(1), eps);
  if (cudaError_t error = cudaGetLastError(); error != cudaSuccess)
    refuse("RuntimeError", cudaGetErrorString(error));
}

void rms_norm(TensorView out, TensorView x, TensorView weight, double eps) {
  check_rms_norm(out, x, weight, kDLCUDA);
  const auto e = static_cast<float>(eps);
  const bool f32 = is_f32(x.dtype()), weight_f32 = is_f32(weight.dtype());
  if (f32 && weight_f32) launch<float, float>(out, x, weight, e);
  if (f32 && !weight_f32) launch<float, __nv_bfloat16>(out, x, weight, e);
  if (!f32 && weight_f32) launch<__nv_bfloat16, float>(out, x, weight, e);
  if (!f32 && !weight_f32) launch<__nv_bfloat16, __nv_bfloat16>(out, x, weight, e);
}

}  // namespace

TVM_FFI_DLL_EXPORT_TYPED_FUNC(rms_norm_cuda, rms_norm)
