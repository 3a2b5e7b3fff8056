// x * w^T + bias for few tokens, E4M3 weights with a scale a row: bound by weight reads. As linear_small.cu, with 16 weights
// in a lane's 16 bytes: lane 4g+c reads columns 16c..16c+15 of each 64 of rows 2g and 2g+1, and of token g.
#include "kernels/cuda/device/fp8.cuh"
#include "kernels/cuda/device/value.cuh"
#include "kernels/cuda/fp8_rows.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rows.h"

namespace tessera::cuda {
namespace {

using bf16 = __nv_bfloat16;
constexpr int kMaxTokens = 32;

struct Fp8Args {
  const bf16* x;        // [T, K]
  const uint8_t* w;     // [N, K]
  const float* scales;  // [N]
  AnyVector bias;
  AnyOutput out;  // [T, N]
  int tokens;
  int n;
  int k;
};

// kRowWarps x kColumnWarps warps; a block covers 16 * kRowWarps rows, each split in K over kColumnWarps warps whose sums
// meet in shared memory in a fixed order. Two blocks of 8 warps a multiprocessor leave registers enough (three spill: 8.8 us
// for 6.9 at o); where K is not shared, one block gets them all, and more loads are hoisted (222 to 206 us at lm_head).
template <int kTiles, int kRowWarps, int kColumnWarps, int kDepth>
__global__ void __launch_bounds__(32 * kRowWarps * kColumnWarps, kTiles == 1 && kColumnWarps == 8 ? 2 : 1) linear_fp8_small(Fp8Args a) {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
  int row_warp = warp % kRowWarps, column_warp = warp / kRowWarps;
  int row = (blockIdx.x * kRowWarps + row_warp) * 16 + 2 * g;
  int steps = a.k / 64;
  int begin = steps * column_warp / kColumnWarps;
  int count = steps * (column_warp + 1) / kColumnWarps - begin, last = max(count - 1, 0);
  const uint8_t* w = a.w + 64 * begin + 16 * c;
  const uint8_t* w0 = w + static_cast<int64_t>(min(row, a.n - 1)) * a.k;
  const uint8_t* w1 = w + static_cast<int64_t>(min(row + 1, a.n - 1)) * a.k;
  const bf16* x[kTiles];
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
    int column = min(64 * begin, a.k - 64) + 16 * c;  // a warp with no columns reads some of its neighbour's
    x[t] = a.x + static_cast<int64_t>(min(t * 8 + g, a.tokens - 1)) * a.k + column;
  }
  uint4 v0[kDepth], v1[kDepth];
#pragma unroll
  for (int i = 0; i < kDepth; ++i) {
    v0[i] = load_weights_if(w0 + 64 * i, i < count);
    v1[i] = load_weights_if(w1 + 64 * i, i < count);
  }
  bool owner = column_warp == 0;
  float bias0 = 0.0f, bias1 = 0.0f, scale0 = 0.0f, scale1 = 0.0f;
  if (owner && row < a.n) {
    bias0 = a.bias.at(row);
    scale0 = a.scales[row];
  }
  if (owner && row + 1 < a.n) {
    bias1 = a.bias.at(row + 1);
    scale1 = a.scales[row + 1];
  }
  wait_for_previous_grid();
  allow_next_grid();
  for (int i = lane; i < a.tokens * count; i += 32)
    touch(a.x + static_cast<int64_t>(i / count) * a.k + 64 * (begin + i % count));
  float acc[2][kTiles][4] = {};
  for (int base = 0; base < count; base += kDepth) {
    w0 += 64 * kDepth;
    w1 += 64 * kDepth;
#pragma unroll
    for (int i = 0; i < kDepth; ++i) {
      int column = min(base + i, last) * 64;
      uint4 lo[kTiles], hi[kTiles];
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        lo[t] = load_act(x[t] + column);
        hi[t] = load_act(x[t] + column + 8);
      }
      auto words = [&](uint32_t first, uint32_t second, auto&& b, int half) {
        uint32_t a0 = fp8_pair<false>(first), a1 = fp8_pair<false>(second);
        uint32_t a2 = fp8_pair<true>(first), a3 = fp8_pair<true>(second);
#pragma unroll
        for (int t = 0; t < kTiles; ++t)
          mma_16x8x16<bf16>(acc[half][t], a0, a1, a2, a3, b(t).x, b(t).y);
      };
      words(v0[i].x, v1[i].x, [&](int t) { return uint2{lo[t].x, lo[t].y}; }, 0);
      words(v0[i].y, v1[i].y, [&](int t) { return uint2{lo[t].z, lo[t].w}; }, 1);
      words(v0[i].z, v1[i].z, [&](int t) { return uint2{hi[t].x, hi[t].y}; }, 0);
      words(v0[i].w, v1[i].w, [&](int t) { return uint2{hi[t].z, hi[t].w}; }, 1);
      bool more = base + i + kDepth < count;
      v0[i] = load_weights_if(w0 + 64 * i, more);
      v1[i] = load_weights_if(w1 + 64 * i, more);
    }
  }
#pragma unroll
  for (int t = 0; t < kTiles; ++t)
#pragma unroll
    for (int j = 0; j < 4; ++j) acc[0][t][j] += acc[1][t][j];

  if constexpr (kColumnWarps > 1) {
    __shared__ float partial[kColumnWarps][kRowWarps][kTiles][32][4];
#pragma unroll
    for (int t = 0; t < kTiles; ++t)
      *reinterpret_cast<float4*>(partial[column_warp][row_warp][t][lane]) =
          make_float4(acc[0][t][0], acc[0][t][1], acc[0][t][2], acc[0][t][3]);
    __syncthreads();
    if (column_warp != 0) return;
#pragma unroll
    for (int t = 0; t < kTiles; ++t)
#pragma unroll
      for (int s = 1; s < kColumnWarps; ++s) {
        float4 p = *reinterpret_cast<const float4*>(partial[s][row_warp][t][lane]);
        acc[0][t][0] += p.x;
        acc[0][t][1] += p.y;
        acc[0][t][2] += p.z;
        acc[0][t][3] += p.w;
      }
  }
  if (row >= a.n) return;
#pragma unroll
  for (int t = 0; t < kTiles; ++t)
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      int token = t * 8 + 2 * c + j;
      if (token >= a.tokens) continue;
      int64_t at = static_cast<int64_t>(token) * a.n + row;
      a.out.put(at, acc[0][t][j] * scale0 + bias0);
      if (row + 1 < a.n) a.out.put(at + 1, acc[0][t][2 + j] * scale1 + bias1);
    }
}

Verdict supports(const LinearArgs& a) {
  if (!on_gpu(a.x)) return {"the tensors are not on a CUDA device"};
  if (a.x.dtype != DType::kBF16) return {"activations are not BF16"};
  if (a.w.format != WeightFormat::kFp8Rows) return {"weights are not FP8 rows"};
  if (!fits_fp8_rows(a.w.k)) return {"K is not a multiple of 64"};
  if (a.x.dim(0) > kMaxTokens) return {"more than 32 tokens"};
  return kAccepted;
}

template <int kTiles>
void run_tiles(const Fp8Args& a, Stream& stream) {
  // More columns leave fewer registers for weights in flight.
  constexpr int kDepth = kTiles > 2 ? 3 : 6;
  int64_t strips = ceil_div(a.n, 16);
  if (strips >= 8 * 132) {
    launch("linear", linear_fp8_small<kTiles, 4, 1, kDepth>, dim3(ceil_div(strips, 4)), dim3(128), 0, stream, a);
  } else {
    launch("linear", linear_fp8_small<kTiles, 1, 8, kDepth>, dim3(strips), dim3(256), 0, stream, a);
  }
}

void run(const LinearArgs& a, Stream& stream) {
  if (a.x.dim(0) == 0) return;
  Fp8Args f{a.x.as<bf16>(),
            a.w.values.as<uint8_t>(),
            a.w.scales.f32(),
            {a.bias.data, a.bias.dtype},
            {a.out.data, a.out.dtype},
            static_cast<int>(a.x.dim(0)),
            static_cast<int>(a.w.n),
            static_cast<int>(a.w.k)};
  if (f.tokens <= 8) return run_tiles<1>(f, stream);
  f.tokens <= 16 ? run_tiles<2>(f, stream) : run_tiles<4>(f, stream);
}

}  // namespace

KernelRow<LinearArgs> linear_fp8_small_row() {
  return {"linear_bf16_fp8_small", DeviceType::kCuda, "mma.sync with weights as A, bound by weight reads: up to 32 tokens", supports,
          nullptr, run, true};
}

}  // namespace tessera::cuda
