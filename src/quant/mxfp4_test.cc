#include "quant/mxfp4.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace tessera {
namespace {

// The nearest code by distance, in double precision; a tie goes to the even code.
uint8_t reference_code(float x, float inverse_scale) {
  double magnitude = std::fabs(static_cast<double>(x) * inverse_scale);
  int best = 0;
  for (int code = 1; code < 8; ++code) {
    double gain = std::fabs(magnitude - kMxfp4Values[best]) - std::fabs(magnitude - kMxfp4Values[code]);
    if (gain > 0 || (gain == 0 && code % 2 == 0)) best = code;
  }
  return static_cast<uint8_t>(best | (std::signbit(x) ? 8 : 0));
}

void reference_block(const float* x, uint8_t* block, uint8_t* scale) {
  float largest = 0;
  for (int i = 0; i < 32; ++i) largest = std::max(largest, std::fabs(x[i]));
  uint32_t exponent = (std::bit_cast<uint32_t>(largest / 6.0f) + 0x7fffffu) & 0x7f800000u;
  float inverse = exponent == 0 ? 0.0f : 1.0f / std::bit_cast<float>(exponent);
  *scale = static_cast<uint8_t>(exponent >> 23);
  for (int j = 0; j < 16; ++j)
    block[j] = static_cast<uint8_t>(reference_code(x[2 * j], inverse) | reference_code(x[2 * j + 1], inverse) << 4);
}

TEST(Mxfp4, ScaleIsAnExactPowerOfTwo) {
  for (int s = 0; s < 255; ++s) EXPECT_EQ(mxfp4_scale(static_cast<uint8_t>(s)), std::ldexp(1.0f, s - 127)) << s;
  EXPECT_TRUE(std::isnan(mxfp4_scale(255)));
}

TEST(Mxfp4, KnownBlock) {
  float x[32] = {6.0f,  -6.0f, 0.24f, 0.25f, 0.74f, 0.75f, 1.24f, 1.25f,
                 1.75f, 2.49f, 2.5f,  3.5f,  4.99f, 5.0f,  -0.0f, 0.0f};
  uint8_t block[16], scale;
  ASSERT_TRUE(mxfp4_quantize_row(x, 32, block, &scale));
  EXPECT_EQ(scale, 127);
  const uint8_t expected[8] = {0xf7, 0x00, 0x21, 0x22, 0x44, 0x64, 0x66, 0x08};
  for (int j = 0; j < 8; ++j) EXPECT_EQ(block[j], expected[j]) << j;
}

TEST(Mxfp4, QuantizesLikeTheReferenceRule) {
  std::mt19937 random(3);
  auto below = [&](uint32_t n) { return random() % n; };
  for (int round = 0; round < 20000; ++round) {
    float x[32];
    int kind = static_cast<int>(below(4));
    uint32_t exponent = 1 + below(240);
    for (float& v : x) {
      uint32_t bits = random();
      if (kind == 0) bits = (bits & 0x807fffffu) | (exponent + below(8)) << 23;  // one magnitude
      if (kind == 1) bits = (bits & 0x807f0000u) | (120 + below(9)) << 23;       // bf16 near one
      if (kind == 2) bits = (bits & 0x80200000u) | (124 + below(6)) << 23;       // ties
      if (kind == 3) bits = below(2) ? bits & 0x80000000u : (bits & 0x807fffffu) | below(255) << 23;
      v = std::bit_cast<float>(bits);
    }
    uint8_t block[16], scale, wanted_block[16], wanted_scale;
    ASSERT_TRUE(mxfp4_quantize_row(x, 32, block, &scale));
    reference_block(x, wanted_block, &wanted_scale);
    ASSERT_EQ(scale, wanted_scale) << round;
    for (int j = 0; j < 16; ++j) ASSERT_EQ(block[j], wanted_block[j]) << round << " kind " << kind;
  }
}

TEST(Mxfp4, ZeroBlocksKeepSignsAndHaveScaleZero) {
  float x[32] = {};
  x[3] = -0.0f;
  uint8_t block[16], scale = 9;
  ASSERT_TRUE(mxfp4_quantize_row(x, 32, block, &scale));
  EXPECT_EQ(scale, 0);
  EXPECT_EQ(block[0], 0);
  EXPECT_EQ(block[1], 0x80);
}

TEST(Mxfp4, NotFiniteIsReported) {
  for (float bad : {INFINITY, -INFINITY, NAN}) {
    for (int at : {0, 17, 31}) {
      float x[32] = {1, 2, 3};
      x[at] = bad;
      uint8_t block[16], scale;
      EXPECT_FALSE(mxfp4_quantize_row(x, 32, block, &scale));
    }
  }
}

TEST(Mxfp4, DequantizesExactlyInBothTypesAndBack) {
  for (int s = 0; s < 252; ++s) {
    uint8_t block[16], scale = static_cast<uint8_t>(s), again[16], again_scale;
    for (int j = 0; j < 16; ++j) block[j] = static_cast<uint8_t>((j & 15) << 4 | (15 - j));
    float f[32];
    uint16_t b[32];
    mxfp4_dequantize_row(block, &scale, 32, f);
    mxfp4_dequantize_row(block, &scale, 32, b);
    for (int i = 0; i < 32; ++i) {
      int code = i % 2 ? block[i / 2] >> 4 : block[i / 2] & 15;
      ASSERT_EQ(f[i], std::ldexp(kMxfp4Values[code], s - 127));
      ASSERT_EQ(std::signbit(f[i]), code >= 8);
      ASSERT_EQ(std::bit_cast<uint32_t>(bf16_to_float(b[i])), std::bit_cast<uint32_t>(f[i])) << s;
    }
    if (s == 0) continue;  // 6 * 2^-127 / 6 rounds up to 2^-126
    ASSERT_TRUE(mxfp4_quantize_row(f, 32, again, &again_scale));
    EXPECT_EQ(again_scale, s);
    for (int j = 0; j < 16; ++j) EXPECT_EQ(again[j], block[j]);
  }
}

TEST(Mxfp4, ExpertsRoundTripAnyShapeAndThreadCount) {
  for (int threads : {1, 3}) {
    ThreadPool pool(threads);
    int64_t e = 3, k = 96, n = 70;
    std::vector<uint16_t> plain(static_cast<size_t>(e * k * n)), back(plain.size());
    std::vector<uint8_t> blocks(plain.size() / 2), scales(plain.size() / 32);
    std::mt19937 random(5);
    std::normal_distribution<float> normal;
    for (uint16_t& v : plain) v = float_to_bf16(normal(random));
    Tensor tp{plain.data(), {e, k, n}, DType::kBF16}, tb{blocks.data(), {e, n, k / 32, 16}, DType::kU8},
        ts{scales.data(), {e, n, k / 32}, DType::kU8}, out{back.data(), {e, k, n}, DType::kBF16};
    ASSERT_TRUE(mxfp4_quantize_experts(tp, tb, ts, pool));
    for (int64_t x = 0; x < e; ++x) {
      for (int64_t c = 0; c < n; ++c) {
        std::vector<float> row(static_cast<size_t>(k));
        for (int64_t i = 0; i < k; ++i)
          row[static_cast<size_t>(i)] = bf16_to_float(plain[static_cast<size_t>((x * k + i) * n + c)]);
        std::vector<uint8_t> rb(static_cast<size_t>(k / 2)), rs(static_cast<size_t>(k / 32));
        ASSERT_TRUE(mxfp4_quantize_row(row.data(), k, rb.data(), rs.data()));
        for (int64_t i = 0; i < k / 2; ++i)
          ASSERT_EQ(rb[static_cast<size_t>(i)], blocks[static_cast<size_t>((x * n + c) * k / 2 + i)]);
        for (int64_t i = 0; i < k / 32; ++i)
          ASSERT_EQ(rs[static_cast<size_t>(i)], scales[static_cast<size_t>((x * n + c) * k / 32 + i)]);
      }
    }
    mxfp4_dequantize_experts(tb, ts, out, pool);
    std::vector<uint8_t> blocks2(blocks.size()), scales2(scales.size());
    ASSERT_TRUE(mxfp4_quantize_experts(out, {blocks2.data(), tb.shape, DType::kU8},
                                       {scales2.data(), ts.shape, DType::kU8}, pool));
    // Requantising may lower a scale whose largest code fell, never the values.
    std::vector<uint16_t> back2(plain.size());
    mxfp4_dequantize_experts({blocks2.data(), tb.shape, DType::kU8}, {scales2.data(), ts.shape, DType::kU8},
                             {back2.data(), out.shape, DType::kBF16}, pool);
    EXPECT_EQ(back, back2);
    plain[5] = 0x7f80;
    EXPECT_FALSE(mxfp4_quantize_experts(tp, tb, ts, pool));
  }
}

TEST(Mxfp4, FindsNanScales) {
  std::vector<uint8_t> scales(100, 120);
  EXPECT_EQ(mxfp4_find_nan_scale(scales), -1);
  scales[42] = scales[77] = 255;
  EXPECT_EQ(mxfp4_find_nan_scale(scales), 42);
  EXPECT_EQ(mxfp4_find_nan_scale({}), -1);
  EXPECT_EQ(mxfp4_max_scale({}), 0);
  EXPECT_EQ(mxfp4_max_scale(scales), 255);
}

}  // namespace
}  // namespace tessera
