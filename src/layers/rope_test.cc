#include <gtest/gtest.h>

#include "layers/attention.h"

namespace tessera {
namespace {

TEST(Rope, DefaultFrequencies) {
  Rope rope = make_rope(10000, 4, {});
  ASSERT_EQ(rope.inv_freq.size(), 2u);
  EXPECT_FLOAT_EQ(rope.inv_freq[0], 1.0f);
  EXPECT_FLOAT_EQ(rope.inv_freq[1], 0.01f);
  EXPECT_EQ(rope.factor, 1.0f);
}

// gpt-oss-20b's published configuration; expected values computed with numpy in F32 from the YaRN formulas.
TEST(Rope, YarnOfGptOss) {
  RopeScaling scaling{.type = RopeScaling::Type::kYarn,
                      .factor = 32,
                      .original_max_position_embeddings = 4096,
                      .beta_fast = 32,
                      .beta_slow = 1,
                      .truncate = false};
  Rope rope = make_rope(150000, 64, scaling);
  const std::pair<int, double> expected[] = {{0, 1.0},
                                             {1, 0.6890442967414856},
                                             {8, 0.050813280045986176},
                                             {12, 0.006794959306716919},
                                             {17, 0.00012931869423482567},
                                             {25, 2.8250667583051836e-06},
                                             {31, 3.023511396804679e-07}};
  for (auto [i, value] : expected) EXPECT_NEAR(rope.inv_freq[static_cast<size_t>(i)], value, 3e-7 * value) << i;
  EXPECT_FLOAT_EQ(rope.factor, 1.3465735902799727f);
}

TEST(Rope, Llama3KeepsFastAndDividesSlow) {
  RopeScaling scaling{.type = RopeScaling::Type::kLlama3,
                      .factor = 8,
                      .original_max_position_embeddings = 8192,
                      .low_freq_factor = 1,
                      .high_freq_factor = 4};
  Rope plain = make_rope(500000, 128, {});
  Rope scaled = make_rope(500000, 128, scaling);
  EXPECT_EQ(scaled.inv_freq[0], plain.inv_freq[0]);
  EXPECT_FLOAT_EQ(scaled.inv_freq[63], plain.inv_freq[63] / 8);
}

}  // namespace
}  // namespace tessera
