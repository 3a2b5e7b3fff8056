#include "core/dtype.h"

#include "core/e4m3.h"

#include <gtest/gtest.h>

#include <cmath>

namespace tessera {
namespace {

TEST(DType, EveryBf16RoundTrips) {
  for (uint32_t v = 0; v < 0x10000; ++v) {
    float f = bf16_to_float(static_cast<uint16_t>(v));
    if (std::isnan(f)) {
      EXPECT_TRUE(std::isnan(bf16_to_float(float_to_bf16(f))));
    } else {
      EXPECT_EQ(float_to_bf16(f), v);
    }
  }
}

TEST(DType, EveryF16RoundTrips) {
  for (uint32_t v = 0; v < 0x10000; ++v) {
    float f = f16_to_float(static_cast<uint16_t>(v));
    if (std::isnan(f)) {
      EXPECT_TRUE(std::isnan(f16_to_float(float_to_f16(f))));
    } else {
      EXPECT_EQ(float_to_f16(f), v) << f;
    }
  }
}

TEST(DType, RoundsToNearestEven) {
  EXPECT_EQ(float_to_bf16(1.0f + 0x1p-8f), float_to_bf16(1.0f));            // tie, even below
  EXPECT_EQ(float_to_bf16(1.0f + 0x3p-8f), float_to_bf16(1.0f + 0x1p-6f));  // tie, even above
  EXPECT_EQ(float_to_f16(65519.0f), 0x7bff);
  EXPECT_EQ(float_to_f16(65520.0f), 0x7c00);
  EXPECT_EQ(float_to_f16(0x1p-25f), 0);
  EXPECT_EQ(float_to_f16(std::nextafter(0x1p-25f, 1.0f)), 1);
}

TEST(DType, Names) {
  EXPECT_EQ(dtype_from_safetensors("BF16"), DType::kBF16);
  EXPECT_EQ(dtype_from_config("bfloat16"), DType::kBF16);
  EXPECT_FALSE(dtype_from_safetensors("bf16").has_value());
}

TEST(E4m3, EveryValueRoundTrips) {
  for (int v = 0; v < 256; ++v) {
    const float f = e4m3_to_float(static_cast<uint8_t>(v));
    if (std::isnan(f)) {
      EXPECT_TRUE((v & 0x7f) == 0x7f && std::isnan(e4m3_to_float(float_to_e4m3(f))));
    } else {
      EXPECT_EQ(float_to_e4m3(f), v) << f;
    }
  }
  EXPECT_EQ(e4m3_to_float(0x7e), 448.0f);
  EXPECT_EQ(e4m3_to_float(0x01), 0x1p-9f);
}

// Every number between two neighbours goes to the nearer one, ties to the even one; beyond the ends is the end.
TEST(E4m3, RoundsToNearestEvenAndSaturates) {
  for (int v = 0; v < 0x7e; ++v) {
    const float low = e4m3_to_float(static_cast<uint8_t>(v)), high = e4m3_to_float(static_cast<uint8_t>(v + 1));
    const float middle = (low + high) / 2;
    EXPECT_EQ(float_to_e4m3(middle), v + v % 2) << middle;
    EXPECT_EQ(float_to_e4m3(std::nextafter(middle, 0.0f)), v);
    EXPECT_EQ(float_to_e4m3(std::nextafter(middle, 1e9f)), v + 1);
    EXPECT_EQ(float_to_e4m3(-std::nextafter(middle, 1e9f)), (v + 1) | 0x80);
  }
  for (float f : {449.0f, 480.0f, 1e9f, INFINITY}) {
    EXPECT_EQ(float_to_e4m3(f), 0x7e);
    EXPECT_EQ(float_to_e4m3(-f), 0xfe);
  }
}

}  // namespace
}  // namespace tessera
