#include "engine/cache_budget.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace tessera {
namespace {

const CacheLayout kHybrid = layout_cache({{{2, 32, 128}, {2, 32, 0}}}, false);

CacheDemand demand() {
  return {.page_size = 16, .page_bytes = 1000, .chunk = 64, .sequences = 4, .max_context = 4000};
}

int64_t one() {
  return kHybrid.pages_for(4000, 64, 16);
}

std::string refusal(const CacheDemand& d) {
  try {
    plan_cache(kHybrid, d);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kOutOfMemory);
    return e.what();
  }
  return "";
}

TEST(CacheBudget, StatedIsTakenWhole) {
  CacheDemand d = demand();
  d.stated_bytes = one() * 1000 * 9 + 500;
  const CacheBudget b = plan_cache(kHybrid, d);
  EXPECT_EQ(b.pages, one() * 9);
  EXPECT_EQ(b.max_context, 4000);
}

TEST(CacheBudget, DefaultIsWhatIsLeftButNoMoreThanCanBeUsed) {
  CacheDemand d = demand();
  d.free_bytes = int64_t{1} << 40;
  EXPECT_EQ(plan_cache(kHybrid, d).pages, 4 * one());
  d.free_bytes = 2 * one() * 1000 + 1;
  EXPECT_EQ(plan_cache(kHybrid, d).pages, 2 * one());
}

TEST(CacheBudget, AContextThatNobodyAskedForIsCut) {
  CacheDemand d = demand();
  d.fit_context = true;
  d.free_bytes = (one() - 50) * 1000;
  const CacheBudget b = plan_cache(kHybrid, d);
  EXPECT_EQ(b.pages, one() - 50);
  EXPECT_EQ(b.max_context, 4000 - 50 * 16);
  EXPECT_LE(kHybrid.pages_for(b.max_context, 64, 16), b.pages);
  d.free_bytes = 30 * 1000;
  EXPECT_NE(refusal(d), "");
}

TEST(CacheBudget, RefusalsSayHowManyTokensFitAndWhatToChange) {
  CacheDemand d = demand();
  d.stated_bytes = (one() - 50) * 1000;
  std::string text = refusal(d);
  EXPECT_NE(text.find(" 3200 tokens of one request"), std::string::npos) << text;
  EXPECT_NE(text.find("--max-context"), std::string::npos) << text;
  EXPECT_NE(text.find("--cache-memory"), std::string::npos) << text;
  d.stated_bytes = 0;
  d.free_bytes = (one() - 50) * 1000;
  text = refusal(d);
  EXPECT_NE(text.find(" 3200 tokens of one request"), std::string::npos) << text;
  EXPECT_NE(text.find("--max-context"), std::string::npos) << text;
  d.free_bytes = -5;
  EXPECT_NE(refusal(d).find(" 0 tokens"), std::string::npos);
}

}  // namespace
}  // namespace tessera
