// The 16 E2M1 values times each of the 256 E8M0 scales: 64 bytes a scale, so that a block's dequantisation is one table
// load and two permutes. Scale 255 is NaN (OCP MX); 6 x 2^127 and 4 x 2^127 overflow to infinity as they do in F32.
#pragma once

#include <array>
#include <cstdint>
#include <limits>

namespace tessera::cpu {

struct Mxfp4Table {
  alignas(64) float values[256][16];
};

constexpr Mxfp4Table make_mxfp4_table() {
  constexpr double kMagnitude[8] = {0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0};
  Mxfp4Table table{};
  double scale = 1.0;
  for (int i = 0; i < 127; ++i) scale /= 2;
  for (int s = 0; s < 256; ++s, scale *= 2) {
    for (int i = 0; i < 8; ++i) {
      double v = kMagnitude[i] * scale;
      float f = v > std::numeric_limits<float>::max() ? std::numeric_limits<float>::infinity() : static_cast<float>(v);
      if (s == 255) f = std::numeric_limits<float>::quiet_NaN();
      table.values[s][i] = f;
      table.values[s][i + 8] = -f;
    }
  }
  return table;
}

inline constexpr Mxfp4Table kMxfp4Table = make_mxfp4_table();

// 2^(s - 128): multiplies E2M1 values that were doubled to whole numbers.
struct HalfScales {
  float values[256];
};

constexpr HalfScales make_half_scales() {
  HalfScales table{};
  double scale = 0.5;
  for (int i = 0; i < 127; ++i) scale /= 2;
  for (int s = 0; s < 255; ++s, scale *= 2) table.values[s] = static_cast<float>(scale);
  table.values[255] = std::numeric_limits<float>::quiet_NaN();
  return table;
}

inline constexpr HalfScales kHalfScales = make_half_scales();

}  // namespace tessera::cpu
