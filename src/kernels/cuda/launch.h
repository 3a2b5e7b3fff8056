// Launching: dtype dispatch, checks of CUDA results, and launches that may overlap the tail of the grid before them.
#pragma once

#include <cuda_runtime.h>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <utility>

#include "core/cuda_capability.h"
#include "core/error.h"
#include "kernels/table.h"

namespace tessera::cuda {

inline void check(cudaError_t result, const char* what) {
  if (result != cudaSuccess) fail(ErrorCode::kIo, "CUDA: {}: {}", what, cudaGetErrorString(result));
}

constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// Of the current device, or what it is told to act as.
inline int current_capability() {
  int device = 0, major = 0, minor = 0;
  check(cudaGetDevice(&device), "current device");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "compute capability");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "compute capability");
  return acting_capability(major * 10 + minor);
}

// Launches with programmatic stream serialization: the grid may start while the one before it drains. Kernels call
// wait_for_previous_grid() before they touch anything that is not a weight. Only the code for Hopper can wait so; PTX
// for older cards has no such instruction, so elsewhere grids follow one another as usual.
template <class... Params, class... Args>
void launch_clusters(const char* name, void (*kernel)(Params...), dim3 grid, dim3 block, int64_t smem, unsigned cluster,
                     const Stream& stream, Args&&... args) {
  cudaLaunchAttribute attributes[2]{};
  unsigned used = 0;
  if (current_capability() == 90) {
    attributes[used].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[used++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (cluster > 1) {
    attributes[used].id = cudaLaunchAttributeClusterDimension;
    attributes[used].val.clusterDim.x = cluster;
    attributes[used].val.clusterDim.y = 1;
    attributes[used++].val.clusterDim.z = 1;
  }
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = static_cast<size_t>(smem);
  config.stream = static_cast<cudaStream_t>(stream.native);
  config.attrs = attributes;
  config.numAttrs = used;
  check(cudaLaunchKernelEx(&config, kernel, Params(std::forward<Args>(args))...), name);
}

template <class... Params, class... Args>
void launch(const char* name, void (*kernel)(Params...), dim3 grid, dim3 block, int64_t smem, const Stream& stream,
            Args&&... args) {
  launch_clusters(name, kernel, grid, block, smem, 1, stream, std::forward<Args>(args)...);
}

// More than 48 KB of shared memory a block must be asked for, once a kernel and device; asking again is cheap.
template <class Kernel>
void allow_smem(Kernel* kernel, int bytes) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "shared memory");
}

// For the router's cluster, which takes 100 KB of shared memory a block, and the products before it: a multiprocessor
// divides its memory anew only when it is empty, so all of them ask for the same 132 of 228 KB, in which a block of
// each fits. Found by measuring: one sequence of a 120b takes 0.5 us a layer less on one GPU, 0.2 on two.
template <class Kernel>
void divide_like_router(Kernel* kernel) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, 58), "division of memory");
}

// Of the current device.
inline int multiprocessors() {
  int device = 0, count = 0;
  check(cudaGetDevice(&device), "current device");
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "multiprocessors");
  return count;
}

constexpr bool is_16_bit(DType t) {
  return t == DType::kBF16 || t == DType::kF16;
}
constexpr bool is_float(DType t) {
  return t == DType::kF32 || is_16_bit(t);
}

// Calls f with a null pointer of the activation's type.
template <class F>
void dispatch_act(DType dtype, F&& f) {
  if (dtype == DType::kBF16) return f(static_cast<__nv_bfloat16*>(nullptr));
  if (dtype == DType::kF16) return f(static_cast<__half*>(nullptr));
  TS_CHECK(dtype == DType::kF32);
  f(static_cast<float*>(nullptr));
}
template <class F>
void dispatch_16_bit(DType dtype, F&& f) {
  if (dtype == DType::kF16) return f(static_cast<__half*>(nullptr));
  TS_CHECK(dtype == DType::kBF16);
  f(static_cast<__nv_bfloat16*>(nullptr));
}

inline bool on_gpu(const Tensor& t) {
  return t.device.type == DeviceType::kCuda;
}

}  // namespace tessera::cuda
