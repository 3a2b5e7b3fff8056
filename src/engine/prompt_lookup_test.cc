#include "engine/prompt_lookup.h"

#include <gtest/gtest.h>

namespace tessera {
namespace {

std::vector<int32_t> draft(std::vector<int32_t> tokens, int64_t most) {
  std::vector<int32_t> out = {99};
  look_up_draft(tokens, most, out);
  return out;
}

using Ids = std::vector<int32_t>;

TEST(PromptLookup, TakesWhatFollowedTheLatestOccurrence) {
  EXPECT_EQ(draft({1, 2, 3, 4, 9, 1, 2, 3, 5, 6, 9, 1, 2, 3}, 4), (Ids{5, 6, 9, 1}));
  EXPECT_EQ(draft({1, 2, 3, 4, 9, 1, 2, 3}, 2), (Ids{4, 9}));
  EXPECT_EQ(draft({1, 2, 7, 8, 3, 1, 2}, 8), (Ids{7, 8, 3, 1, 2}));  // two tokens will do
  EXPECT_EQ(draft({5, 5, 5, 5}, 8), (Ids{5}));
}

TEST(PromptLookup, NothingToSay) {
  EXPECT_EQ(draft({}, 4), Ids{});
  EXPECT_EQ(draft({1}, 4), Ids{});
  EXPECT_EQ(draft({1, 2}, 4), Ids{});
  EXPECT_EQ(draft({1, 2, 3, 4, 5}, 4), Ids{});
  EXPECT_EQ(draft({1, 2, 1, 2}, 0), Ids{});
}

}  // namespace
}  // namespace tessera
