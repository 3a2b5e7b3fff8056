// A warp's product of 16 weight rows, 16-bit as they lie in memory, with up to 8 * kTiles rows of x: bound by weight reads.
// Weights are the A operand of mma.sync. Lane 4g+c reads 16 bytes (columns 8c..8c+7 of each 32) of its two rows, the
// fragment's rows g and g+8, and of token g: the same permutation of K on both sides, so nothing is re-arranged.
#pragma once

#include "kernels/cuda/device/ptx.cuh"

namespace tessera::cuda {

// `count` steps of 32 columns with kDepth loads of each row in flight. w0, w1 and x[t] point at the lane's first piece.
// `ready` is called once, after the first loads are under way and before x is read. acc[t]: values 0, 1 are row w0's
// tokens 8t+2c, +1; 2, 3 row w1's.
template <class T, int kTiles, int kDepth, class Ready>
__device__ __forceinline__ void row_product(float (&acc)[kTiles][4], const T* w0, const T* w1, int count,
                                            const T* const (&x)[kTiles], Ready&& ready) {
  uint4 v0[kDepth], v1[kDepth];
#pragma unroll
  for (int i = 0; i < kDepth; ++i) {
    v0[i] = load_weights_if(w0 + 32 * i, i < count);
    v1[i] = load_weights_if(w1 + 32 * i, i < count);
  }
  ready();
#pragma unroll
  for (int t = 0; t < kTiles; ++t)
#pragma unroll
    for (int i = 0; i < 4; ++i) acc[t][i] = 0.0f;
  for (int base = 0; base < count; base += kDepth) {
    w0 += 32 * kDepth;
    w1 += 32 * kDepth;
#pragma unroll
    for (int i = 0; i < kDepth; ++i) {
      int column = min(base + i, count - 1) * 32;
      uint4 xb[kTiles];
#pragma unroll
      for (int t = 0; t < kTiles; ++t) xb[t] = load_act(x[t] + column);
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        mma_16x8x16<T>(acc[t], v0[i].x, v1[i].x, v0[i].y, v1[i].y, xb[t].x, xb[t].y);
        mma_16x8x16<T>(acc[t], v0[i].z, v1[i].z, v0[i].w, v1[i].w, xb[t].z, xb[t].w);
      }
      bool more = base + i + kDepth < count;
      v0[i] = load_weights_if(w0 + 32 * i, more);
      v1[i] = load_weights_if(w1 + 32 * i, more);
    }
  }
}

}  // namespace tessera::cuda
