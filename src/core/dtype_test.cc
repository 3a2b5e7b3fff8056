#include "core/dtype.h"

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

}  // namespace
}  // namespace tessera
