// relu_cuda(out, x), float32 of any shape, on the caller's stream.
#include <cuda_runtime.h>
#include <tvm/ffi/extra/c_env_api.h>

#include "common.h"

namespace {

__global__ void relu_kernel(float* out, const float* x, int64_t n) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) out[i] = fmaxf(x[i], 0.0f);
}

void relu(TensorView out, TensorView x) {
  check_relu(out, x, kDLCUDA);
  const int64_t n = elements(x);
  if (n == 0) return;
  auto stream = static_cast<cudaStream_t>(TVMFFIEnvGetStream(kDLCUDA, x.device().device_id));
  relu_kernel<<<static_cast<unsigned>((n + 255) / 256), 256, 0, stream>>>(static_cast<float*>(out.data_ptr()),
                                                                         static_cast<const float*>(x.data_ptr()), n);
  if (cudaError_t error = cudaGetLastError(); error != cudaSuccess)
    refuse("RuntimeError", cudaGetErrorString(error));
}

}  // namespace

TVM_FFI_DLL_EXPORT_TYPED_FUNC(relu_cuda, relu)
