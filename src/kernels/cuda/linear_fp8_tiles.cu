// x * w^T + bias for many tokens, E4M3 weights with a scale a row: mma.sync tiles fed by a cp.async ring. A lane reads 16
// weights of a row as one 16-byte piece and widens them in registers; of x it reads the same 16 columns, so the order of K
// inside a stage is the lanes', not the matrix's, on both sides. Rows of x are swizzled in 16-byte pieces.
#include "kernels/cuda/device/fp8.cuh"
#include "kernels/cuda/device/value.cuh"
#include "kernels/cuda/fp8_rows.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rows.h"

namespace tessera::cuda {
namespace {

using bf16 = __nv_bfloat16;
constexpr int kColumns = 64;  // K a stage

struct Fp8TilesArgs {
  const bf16* x;        // [T, K]
  const uint8_t* w;     // [N, K]
  const float* scales;  // [N]
  AnyVector bias;
  AnyOutput out;  // [T, N]
  int tokens;
  int n;
  int k;
};

__device__ __forceinline__ uint32_t x_offset(int row, int piece) { return row * 128 + ((piece ^ (row & 7)) * 16); }

// A block computes kTokens x kRows of the output with kTokenWarps x kRowWarps warps.
template <int kTokens, int kRows, int kTokenWarps, int kRowWarps, int kStages>
__global__ void __launch_bounds__(32 * kTokenWarps* kRowWarps) linear_fp8_tiles(Fp8TilesArgs a) {
  wait_for_previous_grid();
  allow_next_grid();
  constexpr int kThreads = 32 * kTokenWarps * kRowWarps;
  constexpr int kXBytes = kTokens * 128, kStageBytes = kXBytes + kRows * 64;
  constexpr int kM = kTokens / kTokenWarps / 16;  // 16-token tiles of a warp
  constexpr int kN = kRows / kRowWarps / 8;       // 8-row tiles of a warp
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
  int warp_token = warp % kTokenWarps * (kTokens / kTokenWarps);
  int warp_row = warp / kTokenWarps * (kRows / kRowWarps);
  int token0 = blockIdx.x * kTokens, row0 = blockIdx.y * kRows;
  uint32_t base = dynamic_smem();
  int stages = a.k / kColumns;

  auto load = [&](int stage) {
    uint32_t to = base + stage % kStages * kStageBytes;
    int column = stage * kColumns;
    for (int i = threadIdx.x; i < kTokens * 8; i += kThreads) {
      int64_t token = min(token0 + i / 8, a.tokens - 1);
      cp_async_16(to + x_offset(i / 8, i % 8), a.x + token * a.k + column + i % 8 * 8, true);
    }
    for (int i = threadIdx.x; i < kRows * 4; i += kThreads) {
      int64_t row = min(row0 + i / 4, a.n - 1);
      cp_async_16(to + kXBytes + i * 16, a.w + row * a.k + column + i % 4 * 16, true);
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
    for (int half = 0; half < 2; ++half) {  // 8 of the lane's 16 columns: two k16 steps
      uint4 lo[kM], hi[kM];                 // tokens g and g + 8
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        int row = warp_token + m * 16 + g;
        lo[m] = load_smem(at + x_offset(row, 2 * c + half));
        hi[m] = load_smem(at + x_offset(row + 8, 2 * c + half));
      }
#pragma unroll
      for (int n = 0; n < kN; ++n) {
        uint2 w = load_smem_pair(at + kXBytes + (warp_row + n * 8 + g) * 64 + c * 16 + half * 8);
        uint32_t b0 = fp8_pair<false>(w.x), b1 = fp8_pair<true>(w.x), b2 = fp8_pair<false>(w.y), b3 = fp8_pair<true>(w.y);
#pragma unroll
        for (int m = 0; m < kM; ++m) {
          mma_16x8x16<bf16>(acc[m][n], lo[m].x, hi[m].x, lo[m].y, hi[m].y, b0, b1);
          mma_16x8x16<bf16>(acc[m][n], lo[m].z, hi[m].z, lo[m].w, hi[m].w, b2, b3);
        }
      }
    }
  }
#pragma unroll
  for (int n = 0; n < kN; ++n)
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      int row = row0 + warp_row + n * 8 + 2 * c + j;
      if (row >= a.n) continue;
      float bias = a.bias.at(row), scale = a.scales[row];
#pragma unroll
      for (int m = 0; m < kM; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          int token = token0 + warp_token + m * 16 + g + 8 * half;
          if (token < a.tokens) a.out.put(static_cast<int64_t>(token) * a.n + row, acc[m][n][2 * half + j] * scale + bias);
        }
    }
}

Verdict supports(const LinearArgs& a) {
  if (!on_gpu(a.x)) return {"the tensors are not on a CUDA device"};
  if (a.x.dtype != DType::kBF16) return {"activations are not BF16"};
  if (a.w.format != WeightFormat::kFp8Rows) return {"weights are not FP8 rows"};
  if (!fits_fp8_rows(a.w.k)) return {"K is not a multiple of 64"};
  return kAccepted;
}

template <int kTokens, int kRows, int kTokenWarps, int kRowWarps, int kStages>
void run_tiles(const Fp8TilesArgs& a, Stream& stream) {
  auto kernel = linear_fp8_tiles<kTokens, kRows, kTokenWarps, kRowWarps, kStages>;
  constexpr int kSmem = kStages * (kTokens * 128 + kRows * 64);
  allow_smem(kernel, kSmem);
  launch("linear", kernel, dim3(ceil_div(a.tokens, kTokens), ceil_div(a.n, kRows)), dim3(32 * kTokenWarps * kRowWarps), kSmem,
         stream, a);
}

void run(const LinearArgs& a, Stream& stream) {
  if (a.x.dim(0) == 0) return;
  Fp8TilesArgs t{a.x.as<bf16>(),
                 a.w.values.as<uint8_t>(),
                 a.w.scales.f32(),
                 {a.bias.data, a.bias.dtype},
                 {a.out.data, a.out.dtype},
                 static_cast<int>(a.x.dim(0)),
                 static_cast<int>(a.w.n),
                 static_cast<int>(a.w.k)};
  if (t.tokens <= 32) {
    run_tiles<32, 64, 1, 4, 6>(t, stream);
  } else if (t.tokens <= 64 || ceil_div(t.tokens, 128) * ceil_div(t.n, 128) < 132) {
    run_tiles<64, 64, 2, 2, 6>(t, stream);
  } else {
    run_tiles<128, 128, 2, 4, 4>(t, stream);
  }
}

}  // namespace

KernelRow<LinearArgs> linear_fp8_tiles_row() {
  return {"linear_bf16_fp8_tiles", DeviceType::kCuda, "mma.sync tiles, any number of tokens", supports, nullptr, run};
}

}  // namespace tessera::cuda
