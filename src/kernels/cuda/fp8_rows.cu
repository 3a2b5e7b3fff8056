#include "kernels/cuda/fp8_rows.h"

#include <cuda_fp8.h>

#include "kernels/cuda/device/ptx.cuh"
#include "kernels/cuda/device/value.cuh"
#include "kernels/cuda/launch.h"

namespace tessera::cuda {
namespace {

// One block a row.
__global__ void __launch_bounds__(256) quantize_kernel(AnyVector rows, int64_t k, uint8_t* values, float* scales) {
  __shared__ float largest[8];
  int64_t row = blockIdx.x;
  float top = 0.0f;
  for (int64_t i = threadIdx.x; i < k; i += blockDim.x) top = fmaxf(top, fabsf(rows.at(row * k + i)));
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, offset));
  if (threadIdx.x % 32 == 0) largest[threadIdx.x / 32] = top;
  __syncthreads();
  top = 0.0f;
  for (int i = 0; i < 8; ++i) top = fmaxf(top, largest[i]);
  int exponent = 0;
  float mantissa = frexpf(top / 448.0f, &exponent);  // in [0.5, 1)
  float scale = top > 0.0f ? ldexpf(1.0f, max(mantissa == 0.5f ? exponent - 1 : exponent, -120)) : 1.0f;
  if (threadIdx.x == 0) scales[row] = scale;
  for (int64_t i = threadIdx.x; i < k; i += blockDim.x)
    values[row * k + i] = __nv_cvt_float_to_fp8(rows.at(row * k + i) / scale, __NV_SATFINITE, __NV_E4M3);
}

}  // namespace

void quantize_fp8_rows(const Tensor& rows, uint8_t* values, float* scales, void* stream) {
  int64_t n = rows.dim(0), k = rows.dim(1);
  if (n == 0) return;
  Stream at;
  at.native = stream;
  launch("quantize_fp8_rows", quantize_kernel, dim3(n), dim3(256), 0, at, AnyVector{rows.data, rows.dtype}, k, values, scales);
}

}  // namespace tessera::cuda
