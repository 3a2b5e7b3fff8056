#include "core/e4m3.h"

#include <bit>
#include <cmath>
#include <limits>

namespace tessera {

namespace {

struct Values {
  float of[256];
  Values() {
    for (int v = 0; v < 256; ++v) {
      const int exponent = v >> 3 & 15, mantissa = v & 7;
      float magnitude = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                                      : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
      if (exponent == 15 && mantissa == 7) magnitude = std::numeric_limits<float>::quiet_NaN();
      of[v] = v & 0x80 ? -magnitude : magnitude;
    }
  }
};

}  // namespace

float e4m3_to_float(uint8_t v) {
  static const Values values;
  return values.of[v];
}

uint8_t float_to_e4m3(float f) {
  uint32_t u = std::bit_cast<uint32_t>(f);
  const auto sign = static_cast<uint8_t>(u >> 24 & 0x80);
  u &= 0x7fffffffu;
  if (u > 0x7f800000u) return sign | 0x7f;
  if (u >= std::bit_cast<uint32_t>(448.0f)) return sign | 0x7e;
  if (u < std::bit_cast<uint32_t>(0x1p-6f)) {  // subnormal: let the FPU round at the right place, 2^-9
    const float magnitude = std::bit_cast<float>(u) + 0x1p14f;
    return sign | static_cast<uint8_t>(std::bit_cast<uint32_t>(magnitude) - std::bit_cast<uint32_t>(0x1p14f));
  }
  u += 0x7ffffu + (u >> 20 & 1);
  return sign | static_cast<uint8_t>((u >> 20) - (120u << 3));
}

}  // namespace tessera
