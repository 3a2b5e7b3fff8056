// gpt-oss's clamped SwiGLU.
#pragma once

namespace tessera::cuda {

__device__ __forceinline__ float swiglu_oai(float gate, float up, float limit) {
  gate = fminf(gate, limit);
  up = fminf(fmaxf(up, -limit), limit);
  return (up + 1.0f) * gate / (1.0f + exp2f(-1.702f * 1.4426950408889634f * gate));
}

}  // namespace tessera::cuda
