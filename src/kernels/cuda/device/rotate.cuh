// Rotation of 16-bit heads, split-half pairing, values rounded once.
#pragma once

#include "kernels/cuda/device/value.cuh"

namespace tessera::cuda {

// lo and hi are 8 pairs; their cosines and sines.
template <class T>
__device__ __forceinline__ void rotate(uint4& lo, uint4& hi, const uint4& cos, const uint4& sin) {
  auto two = [](uint32_t& a, uint32_t& b, uint32_t c, uint32_t s) {
    float2 x = unpack2<T>(a), y = unpack2<T>(b), cosine = unpack2<T>(c), sine = unpack2<T>(s);
    a = pack2<T>(x.x * cosine.x - y.x * sine.x, x.y * cosine.y - y.y * sine.y);
    b = pack2<T>(y.x * cosine.x + x.x * sine.x, y.y * cosine.y + x.y * sine.y);
  };
  two(lo.x, hi.x, cos.x, sin.x);
  two(lo.y, hi.y, cos.y, sin.y);
  two(lo.z, hi.z, cos.z, sin.z);
  two(lo.w, hi.w, cos.w, sin.w);
}

}  // namespace tessera::cuda
