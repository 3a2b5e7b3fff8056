#include "cache/pages.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <set>

#include "cache/cache_spec.h"

namespace tessera {
namespace {

TEST(CacheGroups, SameWindowSharesATable) {
  CacheSpec spec{{{2, 32, 128}, {2, 32, 0}, {2, 32, 128}, {2, 32, 0}}};
  auto groups = group_layers(spec, false);
  ASSERT_EQ(groups.size(), 2u);
  EXPECT_EQ(groups[0].window, 128);
  EXPECT_EQ(groups[0].layers, (std::vector<int>{0, 2}));
  EXPECT_EQ(groups[1].layers, (std::vector<int>{1, 3}));
  EXPECT_EQ(group_layers(spec, true).size(), 1u);
}

TEST(SequencePages, WindowGroupStopsGrowing) {
  for (int64_t page_size : {1, 16, 32, 128}) {
    const int64_t window = 128;
    PagePool pool(1000);
    SequencePages pages(pool, page_size, window);
    int64_t length = 0;
    std::mt19937 random(1);
    while (length < 900) {
      int64_t chunk = 1 + static_cast<int64_t>(random() % 40);
      ASSERT_TRUE(pages.reserve(length + chunk));
      EXPECT_LE(pages.held(), (window + chunk - 2 + page_size - 1) / page_size + 1);
      // Every key that the first query of the chunk sees is still held.
      for (int64_t p = std::max<int64_t>(0, length - window + 1); p < length + chunk; ++p) EXPECT_GE(pages.slot(p), 0);
      length += chunk;
      pages.commit(length);
      EXPECT_LE(pages.held(), (window - 1 + page_size - 1) / page_size + 1);
    }
  }
}

// Random sequences come, grow and go; no page is ever held twice, lost, or freed twice.
TEST(PagePool, RandomOperationsKeepEveryPageInOnePlace) {
  std::mt19937 random(7);
  PagePool pool(200);
  struct Sequence {
    SequencePages pages;
    int64_t length;
  };
  std::vector<std::unique_ptr<Sequence>> live;
  for (int i = 0; i < 200000; ++i) {
    uint32_t action = random() % 10;
    if (action < 2 || live.empty()) {
      live.push_back(std::make_unique<Sequence>(Sequence{SequencePages(pool, 8, random() % 2 ? 20 : 0), 0}));
    } else if (action < 8) {
      Sequence& s = *live[random() % live.size()];
      int64_t target = s.length + 1 + random() % 30;
      int32_t used = pool.used();
      if (s.pages.reserve(target)) {
        s.length = target;
        s.pages.commit(target);
      } else {
        EXPECT_EQ(pool.used(), used);
        live.erase(live.begin() + static_cast<long>(random() % live.size()));
      }
    } else {
      live.erase(live.begin() + static_cast<long>(random() % live.size()));
    }
    if (i % 1000 == 0) {
      std::set<int32_t> seen;
      int64_t held = 0;
      for (const auto& s : live) {
        for (int32_t page : s->pages.table()) {
          if (page == SequencePages::kReleased) continue;
          EXPECT_TRUE(seen.insert(page).second);
          ++held;
        }
      }
      EXPECT_EQ(held, pool.used());
    }
  }
  live.clear();
  EXPECT_EQ(pool.used(), 0);
}

}  // namespace
}  // namespace tessera
