#include "engine/step_shape.h"

#include <gtest/gtest.h>

namespace tessera {
namespace {

TEST(StepShape, RecordedShapesHoldTheStepAndAreFew) {
  for (int64_t limit : {1, 7, 100, 300}) {
    int64_t last = 0, kinds = 0;
    for (int64_t n = 1; n <= limit; ++n) {
      const int64_t rounded = recorded_sequences(n, limit);
      EXPECT_GE(rounded, n);
      EXPECT_LE(rounded, limit);
      EXPECT_GE(rounded, last);
      EXPECT_EQ(recorded_sequences(rounded, limit), rounded) << "a recorded shape stays as it is";
      kinds += rounded != last;
      last = rounded;
    }
    EXPECT_LE(kinds, 30);
    const std::vector<int64_t> sizes = recorded_sizes(limit);
    EXPECT_EQ(static_cast<int64_t>(sizes.size()), kinds);
    EXPECT_EQ(sizes.back(), limit);
    for (int64_t size : sizes) EXPECT_EQ(recorded_sequences(size, limit), size);
  }
}

TEST(StepShape, ContextIsHeld) {
  for (int64_t n : {1, 511, 512, 513, 2048, 2049, 5000}) {
    EXPECT_GE(recorded_context(n, 5000), n);
    EXPECT_LE(recorded_context(n, 5000), 5000);
  }
}

TEST(StepShape, TablesHoldTheContext) {
  const StepShape shape =
      recorded_shape({.tokens = 9, .sequences = 9, .rows = 9, .max_queries = 1, .max_context = 600}, 10, 1000, 32);
  EXPECT_EQ(shape.sequences, 10);
  EXPECT_TRUE(shape.is_decode());
  EXPECT_EQ(shape.max_context, 1000);
  EXPECT_EQ(shape.table_width, 32);
}

}  // namespace
}  // namespace tessera
