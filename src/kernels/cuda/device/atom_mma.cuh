// One warp's share of an MXFP4 atom (16 rows x 64 columns) times up to 8*kTiles activation rows.
#pragma once

#include "kernels/cuda/atom_bits.h"
#include "kernels/cuda/device/ptx.cuh"
#include "kernels/cuda/mxfp4_atoms.h"

namespace tessera::cuda {

// The scale byte of a row in both halves, as bf16 scale * 2^126.
__device__ __forceinline__ uint32_t atom_multiplier(uint32_t scales, int byte) {
  return prmt(scales, 0, 0x4040u | byte | (byte << 8)) << 7;
}

// x[b][tile]: 16 bytes of the lane's activation row at column 32b + 8c. The two halves of the atom go to two accumulators,
// so that fewer products wait for one another.
template <int kTiles>
__device__ __forceinline__ void atom_mma(float (&acc)[2][kTiles][4], const uint4& w, uint32_t scales,
                                         const uint4 (&x)[2][kTiles]) {
#pragma unroll
  for (int b = 0; b < 2; ++b) {
    uint32_t even = atom_multiplier(scales, 2 * b);
    uint32_t odd = atom_multiplier(scales, 2 * b + 1);
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      uint32_t word = b == 0 ? (s == 0 ? w.x : w.y) : (s == 0 ? w.z : w.w);
      uint32_t a0 = mul_bf16x2(fragment_bits(word, 0), even);
      uint32_t a1 = mul_bf16x2(fragment_bits(word, 1), odd);
      uint32_t a2 = mul_bf16x2(fragment_bits(word, 2), even);
      uint32_t a3 = mul_bf16x2(fragment_bits(word, 3), odd);
#pragma unroll
      for (int t = 0; t < kTiles; ++t)
        mma_16x8x16<__nv_bfloat16>(acc[b][t], a0, a1, a2, a3, s == 0 ? x[b][t].x : x[b][t].z, s == 0 ? x[b][t].y : x[b][t].w);
    }
  }
}

// Runs `count` consecutive atoms with kDepth loads in flight. `atom` points at the lane's 16 bytes of the first atom,
// `scale` at its quad's word; x[t] at column 8c of the lane's row of tile t. `ready` is called once, after the first
// loads are under way and before the activations are read.
template <int kTiles, int kDepth, class Ready>
__device__ __forceinline__ void run_atoms(float (&sum)[kTiles][4], const uint8_t* atom, const uint8_t* scale, int count,
                                          const __nv_bfloat16* const (&x)[kTiles], Ready&& ready) {
  uint4 w[kDepth];
  uint32_t s[kDepth];
#pragma unroll
  for (int i = 0; i < kDepth; ++i) {
    w[i] = load_weights_if(atom + i * kAtomBytes, i < count);
    s[i] = load_weights_word_if(scale + i * kAtomBytes, i < count);
  }
  ready();
  float acc[2][kTiles][4] = {};
  for (int base = 0; base < count; base += kDepth) {
    atom += kDepth * kAtomBytes;
    scale += kDepth * kAtomBytes;
#pragma unroll
    for (int i = 0; i < kDepth; ++i) {
      uint4 xb[2][kTiles];
      int column = min(base + i, count - 1) * static_cast<int>(kAtomColumns);
#pragma unroll
      for (int b = 0; b < 2; ++b)
#pragma unroll
        for (int t = 0; t < kTiles; ++t) xb[b][t] = load_act(x[t] + column + 32 * b);
      atom_mma<kTiles>(acc, w[i], s[i], xb);
      bool more = base + i + kDepth < count;
      w[i] = load_weights_if(atom + i * kAtomBytes, more);
      s[i] = load_weights_word_if(scale + i * kAtomBytes, more);
    }
  }
#pragma unroll
  for (int t = 0; t < kTiles; ++t)
#pragma unroll
    for (int i = 0; i < 4; ++i) sum[t][i] = acc[0][t][i] + acc[1][t][i];
}

}  // namespace tessera::cuda
