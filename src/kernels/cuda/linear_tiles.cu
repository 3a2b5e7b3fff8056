// x * w^T + bias for many tokens, 16-bit: mma.sync tiles fed by a cp.async ring. Rows of x and w lie along K, so both
// operands come from ldmatrix without a transpose; tile rows of 64 columns (128 bytes) are swizzled in 16-byte pieces.
#include "kernels/cuda/device/ptx.cuh"
#include "kernels/cuda/device/value.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rows.h"

namespace tessera::cuda {
namespace {

constexpr int kColumns = 64;  // K a stage

struct TilesArgs {
  const void* x;  // [T, K]
  const void* w;  // [N, K]
  AnyVector bias;
  AnyOutput out;  // [T, N]
  int tokens;
  int n;
  int k;
};

__device__ __forceinline__ uint32_t tile_offset(int row, int piece) { return row * 128 + ((piece ^ (row & 7)) * 16); }

// A block computes kTokens x kRows of the output with kTokenWarps x kRowWarps warps.
template <class T, int kTokens, int kRows, int kTokenWarps, int kRowWarps, int kStages>
__global__ void __launch_bounds__(32 * kTokenWarps* kRowWarps) linear_tiles(TilesArgs a) {
  wait_for_previous_grid();
  allow_next_grid();
  extern __shared__ __align__(128) unsigned char smem[];
  constexpr int kThreads = 32 * kTokenWarps * kRowWarps;
  constexpr int kStageBytes = (kTokens + kRows) * 128;
  constexpr int kM = kTokens / kTokenWarps / 16;  // 16-token tiles of a warp
  constexpr int kN = kRows / kRowWarps / 8;       // 8-row tiles of a warp
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int warp_token = warp % kTokenWarps * (kTokens / kTokenWarps);
  int warp_row = warp / kTokenWarps * (kRows / kRowWarps);
  int token0 = blockIdx.x * kTokens, row0 = blockIdx.y * kRows;
  uint32_t base = smem_address(smem);
  int stages = (a.k + kColumns - 1) / kColumns;

  auto load = [&](int stage) {
    uint32_t to = base + stage % kStages * kStageBytes;
    int column = stage * kColumns;
#pragma unroll
    for (int i = 0; i < (kTokens + kRows) * 8 / kThreads; ++i) {
      int index = i * kThreads + threadIdx.x;
      int row = index / 8, piece = index % 8;
      bool is_x = row < kTokens;
      int64_t from_row = is_x ? min(token0 + row, a.tokens - 1) : min(row0 + row - kTokens, a.n - 1);
      bool valid = column + piece * 8 < a.k;
      const T* from = static_cast<const T*>(is_x ? a.x : a.w) + from_row * a.k + (valid ? column + piece * 8 : 0);
      cp_async_16(to + tile_offset(row, piece), from, valid);
    }
  };
#pragma unroll
  for (int s = 0; s < kStages - 1; ++s) {
    if (s < stages) load(s);
    cp_async_commit();
  }
  float acc[kM][kN][4] = {};
  for (int stage = 0; stage < stages; ++stage) {
    cp_async_wait<kStages - 2>();
    __syncthreads();
    if (stage + kStages - 1 < stages) load(stage + kStages - 1);
    cp_async_commit();
    uint32_t at = base + stage % kStages * kStageBytes;
#pragma unroll
    for (int step = 0; step < kColumns / 16; ++step) {
      uint32_t x[kM][4], w[kN / 2][4];
#pragma unroll
      for (int m = 0; m < kM; ++m)
        ldmatrix_x4(x[m], at + tile_offset(warp_token + m * 16 + lane % 16, step * 2 + lane / 16));
#pragma unroll
      for (int n = 0; n < kN / 2; ++n)
        ldmatrix_x4(w[n], at + tile_offset(kTokens + warp_row + n * 16 + (lane / 16) * 8 + lane % 8, step * 2 + (lane / 8) % 2));
#pragma unroll
      for (int m = 0; m < kM; ++m)
#pragma unroll
        for (int n = 0; n < kN; ++n)
          mma_16x8x16<T>(acc[m][n], x[m][0], x[m][1], x[m][2], x[m][3], w[n / 2][n % 2 * 2], w[n / 2][n % 2 * 2 + 1]);
    }
  }
  int g = lane / 4, c = lane % 4;
#pragma unroll
  for (int n = 0; n < kN; ++n) {
    int row = row0 + warp_row + n * 8 + 2 * c;
    if (row >= a.n) continue;
    float bias0 = a.bias.at(row), bias1 = row + 1 < a.n ? a.bias.at(row + 1) : 0.0f;
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        int token = token0 + warp_token + m * 16 + g + 8 * half;
        if (token >= a.tokens) continue;
        int64_t to = static_cast<int64_t>(token) * a.n + row;
        float first = acc[m][n][2 * half] + bias0, second = acc[m][n][2 * half + 1] + bias1;
        if (a.out.dtype == dtype_of<T>() && a.n % 2 == 0) {
          *reinterpret_cast<uint32_t*>(static_cast<T*>(a.out.data) + to) = pack2<T>(first, second);
        } else {
          a.out.put(to, first);
          if (row + 1 < a.n) a.out.put(to + 1, second);
        }
      }
  }
}

Verdict supports(const LinearArgs& a) {
  if (!on_gpu(a.x)) return {"the tensors are not on a CUDA device"};
  if (!is_16_bit(a.x.dtype)) return {"activations are not BF16 or F16"};
  if (a.w.format != WeightFormat::kPlain || a.w.values.dtype != a.x.dtype) return {"weights are not of the activations' type"};
  if (a.w.k % 8 != 0) return {"K is not a multiple of 8"};
  return kAccepted;
}

template <class T, int kTokens, int kRows, int kTokenWarps, int kRowWarps, int kStages>
void run_tiles(const TilesArgs& a, Stream& stream) {
  auto kernel = linear_tiles<T, kTokens, kRows, kTokenWarps, kRowWarps, kStages>;
  int64_t smem = kStages * (kTokens + kRows) * 128;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(smem)), "shared memory");
  launch("linear", kernel, dim3(ceil_div(a.tokens, kTokens), ceil_div(a.n, kRows)), dim3(32 * kTokenWarps * kRowWarps), smem,
         stream, a);
}

void run(const LinearArgs& a, Stream& stream) {
  if (a.x.dim(0) == 0) return;
  TilesArgs t{a.x.data,
              a.w.values.data,
              {a.bias.data, a.bias.dtype},
              {a.out.data, a.out.dtype},
              static_cast<int>(a.x.dim(0)),
              static_cast<int>(a.w.n),
              static_cast<int>(a.w.k)};
  dispatch_16_bit(a.x.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    if (t.tokens <= 64) {
      run_tiles<T, 64, 32, 4, 1, 6>(t, stream);
    } else if (ceil_div(t.tokens, 128) * ceil_div(t.n, 128) < 132) {
      run_tiles<T, 64, 64, 2, 2, 5>(t, stream);
    } else {
      run_tiles<T, 128, 128, 2, 4, 3>(t, stream);
    }
  });
}

}  // namespace

KernelRow<LinearArgs> linear_tiles_row() {
  return {"linear_16bit_tiles", DeviceType::kCuda, "mma.sync tiles, any number of tokens", supports, nullptr, run};
}

}  // namespace tessera::cuda
