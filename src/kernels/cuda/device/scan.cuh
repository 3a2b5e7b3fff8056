// Sums, maxima and scans of whole numbers, 64-bit ones over a block of up to 1024 threads. All threads call; `scratch` has 32
// words and may be reused after the call.
#pragma once

#include <cstdint>

namespace tessera::cuda {

__device__ __forceinline__ uint64_t block_max(uint64_t v, uint64_t* scratch) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    uint64_t other = __shfl_xor_sync(0xffffffffu, v, offset);
    v = other > v ? other : v;
  }
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  __syncthreads();
  if (lane == 0) scratch[warp] = v;
  __syncthreads();
  v = lane < warps ? scratch[lane] : 0;
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    uint64_t other = __shfl_xor_sync(0xffffffffu, v, offset);
    v = other > v ? other : v;
  }
  return v;
}

struct Scan {
  uint64_t through;  // sum of the threads up to and with this one
  uint64_t total;
};

// Each lane's sum of the lanes up to and with itself.
template <class N>
__device__ __forceinline__ N warp_scan(N v) {
  int lane = threadIdx.x % 32;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    N other = __shfl_up_sync(0xffffffffu, v, offset);
    if (lane >= offset) v += other;
  }
  return v;
}

__device__ __forceinline__ Scan block_scan(uint64_t v, uint64_t* scratch) {
  v = warp_scan(v);
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  __syncthreads();
  if (lane == 31) scratch[warp] = v;
  __syncthreads();
  uint64_t sums = warp_scan<uint64_t>(lane < warps ? scratch[lane] : 0);
  uint64_t before = __shfl_sync(0xffffffffu, sums, warp == 0 ? 0 : warp - 1);
  return {warp == 0 ? v : v + before, __shfl_sync(0xffffffffu, sums, 31)};
}

}  // namespace tessera::cuda
