#include "core/copy_words.h"

namespace tessera {

namespace {

constexpr int kThreads = 512;
constexpr int kEach = 4;

// All of a thread's reads are on their way at once: one across PCIe takes 1 to 2 us.
__global__ void __launch_bounds__(kThreads) copy(uint32_t* to, const volatile uint32_t* from, int words) {
#if __CUDA_ARCH__ >= 900
  cudaGridDependencySynchronize();
#endif
  const int first = static_cast<int>(blockIdx.x * kThreads * kEach + threadIdx.x);
  uint32_t kept[kEach];
#pragma unroll
  for (int i = 0; i < kEach; ++i)
    if (first + i * kThreads < words) kept[i] = from[first + i * kThreads];
#pragma unroll
  for (int i = 0; i < kEach; ++i)
    if (first + i * kThreads < words) to[first + i * kThreads] = kept[i];
}

}  // namespace

cudaError_t copy_words(void* to, const void* from, int64_t words, bool overlap, cudaStream_t stream) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>((words + kThreads * kEach - 1) / (kThreads * kEach)));
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = overlap ? 1 : 0;
  return cudaLaunchKernelEx(&config, copy, static_cast<uint32_t*>(to), static_cast<const volatile uint32_t*>(from),
                            static_cast<int>(words));
}

}  // namespace tessera
