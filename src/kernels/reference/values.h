// Element access by dtype for the plain loops of the reference kernels: slow on purpose, plainly right.
// Long sums are kept in double, so that the oracle's own error is far below what it judges.
#pragma once

#include <cmath>
#include <limits>

#include "core/e4m3.h"
#include "kernels/checks.h"

namespace tessera::reference {

inline float get(const Tensor& t, int64_t i) {
  switch (t.dtype) {
    case DType::kBF16:
      return bf16_to_float(t.as<uint16_t>()[i]);
    case DType::kF16:
      return f16_to_float(t.as<uint16_t>()[i]);
    case DType::kF8E4M3:
      return e4m3_to_float(t.as<uint8_t>()[i]);
    default:
      return t.as<float>()[i];
  }
}

// The value that storing v as t and reading it back gives.
inline float rounded(DType t, float v) {
  switch (t) {
    case DType::kBF16:
      return bf16_to_float(float_to_bf16(v));
    case DType::kF16:
      return f16_to_float(float_to_f16(v));
    default:
      return v;
  }
}

inline void put(const Tensor& t, int64_t i, float v) {
  switch (t.dtype) {
    case DType::kBF16:
      t.as<uint16_t>()[i] = float_to_bf16(v);
      break;
    case DType::kF16:
      t.as<uint16_t>()[i] = float_to_f16(v);
      break;
    case DType::kF8E4M3:
      t.as<uint8_t>()[i] = float_to_e4m3(v);
      break;
    default:
      t.as<float>()[i] = v;
  }
}

// Element (expert, n, k) of a weight. MXFP4 as in the OCP MX specification: E2M1 times 2^(scale - 127), 255 is NaN.
inline float weight_at(const Weight& w, int64_t expert, int64_t n, int64_t k) {
  int64_t i = (expert * w.n + n) * w.k + k;
  if (w.format == WeightFormat::kPlain) return get(w.values, i);
  if (w.format == WeightFormat::kFp8Rows) return e4m3_to_float(w.values.as<uint8_t>()[i]) * w.scales.f32()[n];
  constexpr float kMagnitude[8] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
  uint8_t scale = w.scales.as<uint8_t>()[i / 32];
  if (scale == 255) return std::numeric_limits<float>::quiet_NaN();
  uint8_t nibble = w.values.as<uint8_t>()[i / 2] >> (4 * (i % 2)) & 15;
  float magnitude = std::ldexp(kMagnitude[nibble & 7], scale - 127);
  return nibble & 8 ? -magnitude : magnitude;
}

inline float sigmoid(float x) {
  return 1.0f / (1.0f + std::exp(-x));
}

// min(max(x, low), high) that lets NaN through.
inline float clamp(float x, float low, float high) {
  return x < low ? low : x > high ? high : x;
}

}  // namespace tessera::reference
