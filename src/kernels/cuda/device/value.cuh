// Typed access to activations and vectors on the device: conversion to and from float, 16-byte vectors, and operands
// whose type is known only at run time.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "core/dtype.h"

namespace tessera::cuda {

__device__ __forceinline__ float to_float(float v) { return v; }
__device__ __forceinline__ float to_float(__nv_bfloat16 v) { return __bfloat162float(v); }
__device__ __forceinline__ float to_float(__half v) { return __half2float(v); }

template <class T>
__device__ __forceinline__ T from_float(float v);
template <>
__device__ __forceinline__ float from_float<float>(float v) {
  return v;
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float v) {
  return __float2bfloat16_rn(v);
}
template <>
__device__ __forceinline__ __half from_float<__half>(float v) {
  return __float2half_rn(v);
}

template <class T>
__device__ __forceinline__ float round_to(float v) {
  return to_float(from_float<T>(v));
}

// Two floats as one word of 16-bit values, the first in the low half.
template <class T>
__device__ __forceinline__ uint32_t pack2(float lo, float hi);
template <>
__device__ __forceinline__ uint32_t pack2<__nv_bfloat16>(float lo, float hi) {
  __nv_bfloat162 v = __floats2bfloat162_rn(lo, hi);
  return reinterpret_cast<uint32_t&>(v);
}
template <>
__device__ __forceinline__ uint32_t pack2<__half>(float lo, float hi) {
  __half2 v = __floats2half2_rn(lo, hi);
  return reinterpret_cast<uint32_t&>(v);
}

template <class T>
__device__ __forceinline__ float2 unpack2(uint32_t v);
template <>
__device__ __forceinline__ float2 unpack2<__nv_bfloat16>(uint32_t v) {
  return __bfloat1622float2(reinterpret_cast<__nv_bfloat162&>(v));
}
template <>
__device__ __forceinline__ float2 unpack2<__half>(uint32_t v) {
  return __half22float2(reinterpret_cast<__half2&>(v));
}

template <class T>
__host__ __device__ constexpr DType dtype_of();
template <>
__host__ __device__ constexpr DType dtype_of<float>() {
  return DType::kF32;
}
template <>
__host__ __device__ constexpr DType dtype_of<__nv_bfloat16>() {
  return DType::kBF16;
}
template <>
__host__ __device__ constexpr DType dtype_of<__half>() {
  return DType::kF16;
}

// OCP E4M3: bias 7, subnormals, no infinities.
__device__ __forceinline__ float e4m3_to_float(uint8_t v) {
  int exponent = v >> 3 & 15, mantissa = v & 7;
  if (exponent == 15 && mantissa == 7) return __int_as_float(0x7fffffff);
  float magnitude = exponent == 0 ? static_cast<float>(mantissa) * 0x1p-9f
                                  : __int_as_float((exponent + 120) << 23 | mantissa << 20);
  return v & 0x80 ? -magnitude : magnitude;
}

// A vector operand (norm weight, bias, sinks) of run-time type; null reads as zero.
struct AnyVector {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  __device__ __forceinline__ float at(int64_t i) const {
    if (data == nullptr) return 0.0f;
    if (dtype == DType::kBF16) return __bfloat162float(static_cast<const __nv_bfloat16*>(data)[i]);
    if (dtype == DType::kF16) return __half2float(static_cast<const __half*>(data)[i]);
    return static_cast<const float*>(data)[i];
  }
};

// An output of run-time type.
struct AnyOutput {
  void* data = nullptr;
  DType dtype = DType::kF32;
  __device__ __forceinline__ void put(int64_t i, float v) const {
    if (dtype == DType::kBF16) {
      static_cast<__nv_bfloat16*>(data)[i] = __float2bfloat16_rn(v);
    } else if (dtype == DType::kF16) {
      static_cast<__half*>(data)[i] = __float2half_rn(v);
    } else {
      static_cast<float*>(data)[i] = v;
    }
  }
};

}  // namespace tessera::cuda
