// The ops once more in F64, one thread or one block a result, written apart from the kernels they judge.
#pragma once

#include "kernels/cuda/device/value.cuh"

namespace tessera::bench {

using cuda::AnyVector;

static __global__ void ref_linear(AnyVector x, AnyVector w, AnyVector bias, double* out, int64_t t, int64_t n, int64_t k) {
  int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= t * n) return;
  double sum = 0;
  for (int64_t j = 0; j < k; ++j) sum += static_cast<double>(x.at(i / n * k + j)) * w.at(i % n * k + j);
  out[i] = sum + bias.at(i % n);
}

static __global__ void widen_fp8(const uint8_t* values, const float* scales, float* out, int64_t count, int64_t k) {
  int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  int exponent = values[i] >> 3 & 15, mantissa = values[i] & 7;
  float magnitude = exponent == 0 ? ldexpf(mantissa, -9) : ldexpf(8 + mantissa, exponent - 10);
  out[i] = (values[i] & 0x80 ? -magnitude : magnitude) * scales[i / k];
}

__device__ __forceinline__ double mxfp4_at(const uint8_t* values, const uint8_t* scales, int64_t k, int64_t row, int64_t column) {
  const double table[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  int byte = values[row * (k / 2) + column / 2];
  int code = column % 2 ? byte >> 4 : byte & 15;
  double v = table[code & 7] * exp2(static_cast<double>(scales[row * (k / 32) + column / 32]) - 127.0);
  return code & 8 ? -v : v;
}

static __global__ void ref_moe_inner(AnyVector x, const int32_t* indices, const uint8_t* values, const uint8_t* scales,
                                     AnyVector bias, float limit, double* inner, int64_t pairs, int64_t active, int64_t h,
                                     int64_t inner_size) {
  int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= pairs * inner_size) return;
  int64_t pair = i / inner_size, row = indices[pair] * 2 * inner_size + 2 * (i % inner_size);
  double gate = bias.at(row), up = bias.at(row + 1);
  for (int64_t j = 0; j < h; ++j) {
    double v = x.at(pair / active * h + j);
    gate += v * mxfp4_at(values, scales, h, row, j);
    up += v * mxfp4_at(values, scales, h, row + 1, j);
  }
  gate = fmin(gate, static_cast<double>(limit));
  up = fmin(fmax(up, -static_cast<double>(limit)), static_cast<double>(limit));
  inner[i] = (up + 1) * gate / (1 + exp(-1.702 * gate));
}

static __global__ void ref_moe_out(const double* inner, const int32_t* indices, const float* weights, const uint8_t* values,
                                   const uint8_t* scales, AnyVector bias, double* out, int64_t tokens, int64_t active, int64_t h,
                                   int64_t inner_size) {
  int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= tokens * h) return;
  double sum = 0;
  for (int64_t s = 0; s < active; ++s) {
    int64_t pair = i / h * active + s, row = indices[pair] * h + i % h;
    double v = bias.at(row);
    for (int64_t j = 0; j < inner_size; ++j) v += inner[pair * inner_size + j] * mxfp4_at(values, scales, inner_size, row, j);
    sum += weights[pair] * v;
  }
  out[i] = sum;
}

// Dense keys and values [sum of contexts, K, D], sequence b's rows from key_start[b]. One block of 128 threads a
// (token, head); scores of up to `context` keys in dynamic shared memory.
static __global__ void ref_attention(AnyVector q, AnyVector k, AnyVector v, const int32_t* key_start, const int32_t* query_start,
                                     const int32_t* context, AnyVector sinks, double* out, int64_t batch, int64_t q_heads,
                                     int64_t kv_heads, int64_t d, int64_t window, double scale) {
  extern __shared__ double score[];
  __shared__ double stats[2];
  int64_t t = blockIdx.x / q_heads, head = blockIdx.x % q_heads, kv = head / (q_heads / kv_heads);
  int64_t b = 0;
  while (b + 1 < batch && query_start[b + 1] <= t) ++b;
  int64_t position = context[b] - query_start[b + 1] + t;
  int64_t first = window > 0 && position - window + 1 > 0 ? position - window + 1 : 0;
  for (int64_t key = first + threadIdx.x; key <= position; key += blockDim.x) {
    double s = 0;
    for (int64_t i = 0; i < d; ++i)
      s += static_cast<double>(q.at((t * q_heads + head) * d + i)) * k.at(((key_start[b] + key) * kv_heads + kv) * d + i);
    score[key - first] = s * scale;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    double top = sinks.data ? sinks.at(head) : -1e300;
    for (int64_t i = 0; i <= position - first; ++i) top = fmax(top, score[i]);
    double sum = sinks.data ? exp(sinks.at(head) - top) : 0;
    for (int64_t i = 0; i <= position - first; ++i) sum += exp(score[i] - top);
    stats[0] = top;
    stats[1] = sum;
  }
  __syncthreads();
  for (int64_t i = threadIdx.x; i < d; i += blockDim.x) {
    double o = 0;
    for (int64_t key = first; key <= position; ++key)
      o += exp(score[key - first] - stats[0]) * v.at(((key_start[b] + key) * kv_heads + kv) * d + i);
    out[(t * q_heads + head) * d + i] = o / stats[1];
  }
}

}  // namespace tessera::bench
