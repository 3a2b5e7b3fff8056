// What compute-sanitizer's racecheck says of bulk copies whose order is beyond doubt. Without an argument: one buffer, with
// a barrier of the whole block between the reads and the next copy: nothing is reported. With one: the smallest ring of
// full and empty mbarriers, a thread that fills and four warps that read: reported as a race of the reads with the copies
// (H100, CUDA 13.0), though each copy waits for an arrival that every warp makes after its reads. moe_bf16_mxfp4_sm90.cu has
// such a ring, and the same report.
//
//   nvcc -std=c++20 -arch=sm_90a -lineinfo -I src -o ring bench/lab/racecheck_ring.cu
//   compute-sanitizer --tool racecheck ./ring; compute-sanitizer --tool racecheck ./ring mbarriers
#include <cstdio>

#include "kernels/cuda/device/bulk.cuh"
#include "kernels/cuda/device/ptx.cuh"

namespace {

using namespace tessera::cuda;

constexpr int kWords = 1024, kRounds = 8, kStages = 3, kReaders = 128;

__global__ void one_buffer(const uint32_t* in, uint32_t* out) {
  __shared__ alignas(128) uint32_t data[kWords];
  __shared__ uint64_t full;
  const uint32_t barrier = smem_address(&full);
  if (threadIdx.x == 0) {
    mbarrier_init(barrier, 1);
    mbarrier_init_fence();
  }
  __syncthreads();
  uint32_t sum = 0;
  for (int round = 0; round < kRounds; ++round) {
    if (threadIdx.x == 0) {
      mbarrier_expect(barrier, kWords * 4);
      bulk_copy(smem_address(data), in + round * kWords, kWords * 4, barrier);
    }
    mbarrier_wait(barrier, round & 1);
    for (int i = threadIdx.x; i < kWords; i += kReaders) sum += data[i];
    __syncthreads();
  }
  out[threadIdx.x] = sum;
}

// The first warp fills, the others read.
__global__ void ring(const uint32_t* in, uint32_t* out) {
  __shared__ alignas(128) uint32_t data[kStages][kWords];
  __shared__ uint64_t full[kStages], empty[kStages];
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      mbarrier_init(smem_address(&full[i]), 1);
      mbarrier_init(smem_address(&empty[i]), kReaders / 32);
    }
    mbarrier_init_fence();
  }
  __syncthreads();
  const int lane = threadIdx.x % 32, reader = static_cast<int>(threadIdx.x) - 32;
  uint32_t sum = 0;
  for (int round = 0; round < kRounds; ++round) {
    const int stage = round % kStages, phase = round / kStages & 1;
    if (reader < 0) {
      if (lane != 0) return;
      mbarrier_wait(smem_address(&empty[stage]), phase ^ 1);
      mbarrier_expect(smem_address(&full[stage]), kWords * 4);
      bulk_copy(smem_address(data[stage]), in + round * kWords, kWords * 4, smem_address(&full[stage]));
      continue;
    }
    mbarrier_wait(smem_address(&full[stage]), phase);
    for (int i = reader; i < kWords; i += kReaders) sum += data[stage][i];
    __syncwarp();
    if (lane == 0) mbarrier_arrive(smem_address(&empty[stage]));
  }
  if (reader >= 0) out[reader] = sum;
}

}  // namespace

int main(int count, char**) {
  uint32_t *in, *out, sums[kReaders], total = 0;
  cudaMalloc(&in, kWords * kRounds * 4);
  cudaMalloc(&out, sizeof sums);
  cudaMemset(in, 1, kWords * kRounds * 4);
  if (count == 1) {
    one_buffer<<<1, kReaders>>>(in, out);
  } else {
    ring<<<1, kReaders + 32>>>(in, out);
  }
  cudaMemcpy(sums, out, sizeof sums, cudaMemcpyDeviceToHost);
  for (uint32_t sum : sums) total += sum;
  std::printf("%s: %u, expected %u\n", cudaGetErrorString(cudaGetLastError()), total, 0x01010101u * kWords * kRounds);
}
