#include "cache/paged_cache.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>

#include "cache/cache_spec.h"

namespace tessera {
namespace {

std::vector<int32_t> tokens(int64_t count, int32_t first = 0) {
  std::vector<int32_t> out(static_cast<size_t>(count));
  std::iota(out.begin(), out.end(), first);
  return out;
}

// Prefills with `chunk` tokens a step and returns the tokens that were computed.
int64_t store(PagedCache& cache, CacheSequence& s, const std::vector<int32_t>& all, int64_t chunk = 64) {
  int64_t computed = 0;
  while (s.length() < static_cast<int64_t>(all.size())) {
    const int64_t count = std::min(chunk, static_cast<int64_t>(all.size()) - s.length());
    EXPECT_TRUE(cache.reserve(s, count));
    cache.commit(s, std::span(all).subspan(static_cast<size_t>(s.length()), static_cast<size_t>(count)));
    computed += count;
  }
  return computed;
}

int64_t prompt(PagedCache& cache, CacheSequence& s, const std::vector<int32_t>& ids) {
  cache.match(s, ids, static_cast<int64_t>(ids.size()));
  return store(cache, s, ids);
}

TEST(CacheLayout, KindsShareThePool) {
  CacheSpec spec{{{2, 32, 128}, {2, 32, 0}, {2, 32, 128}, {2, 32, 0}}};
  CacheLayout layout = layout_cache(spec, false);
  ASSERT_EQ(layout.groups.size(), 2u);
  EXPECT_EQ(layout.groups[0].window, 128);
  EXPECT_EQ(layout.groups[0].layers, (std::vector<int>{0, 2}));
  EXPECT_EQ(layout.groups[1].layers, (std::vector<int>{1, 3}));
  EXPECT_EQ(layout.store_of_layer, (std::vector<int>{0, 0, 1, 1}));
  EXPECT_EQ(layout.page_bytes(16, 2), 2 * (2 * 2 * 32 * 2) * 16);
  EXPECT_EQ(layout.pages_for(1000, 1, 16), 63 + (127 + 15) / 16 + 1);
  EXPECT_EQ(layout.tokens_for(layout.pages_for(1000, 40, 16), 40, 16), 1008);
  CacheLayout whole = layout_cache(spec, true);
  EXPECT_EQ(whole.groups.size(), 1u);
  EXPECT_EQ(whole.stores.size(), 4u);
}

TEST(CacheLayout, AFrequentKindIsSplitAndShapesKeepTheirStores) {
  CacheSpec spec;
  for (int i = 0; i < 12; ++i) spec.layers.push_back({i % 6 == 5 ? 4 : 2, 32, i % 6 == 5 ? 0 : 64});
  CacheLayout layout = layout_cache(spec, false);
  ASSERT_EQ(layout.groups.size(), 6u);
  for (const CacheGroup& g : layout.groups) EXPECT_EQ(g.layers.size(), 2u);
  EXPECT_EQ(layout.stores.size(), 4u);  // two of each shape
  for (const CacheGroup& g : layout.groups) {
    EXPECT_NE(layout.store_of_layer[static_cast<size_t>(g.layers[0])],
              layout.store_of_layer[static_cast<size_t>(g.layers[1])]);
    for (int layer : g.layers) {
      const LayerCache& store = layout.stores[static_cast<size_t>(layout.store_of_layer[static_cast<size_t>(layer)])];
      EXPECT_EQ(store.kv_heads, spec.layers[static_cast<size_t>(layer)].kv_heads);
    }
  }
}

TEST(PagedCache, WindowGroupStopsGrowing) {
  for (int64_t page_size : {1, 16, 32, 128}) {
    for (int64_t window : {1, 2, 64, 128}) {
      PagedCache cache({.windows = {window, 0}, .page_size = page_size, .pages = 4000, .prefix_cache = false});
      auto s = cache.open();
      std::mt19937 random(1);
      while (s->length() < 900) {
        const int64_t chunk = 1 + static_cast<int64_t>(random() % 40), before = s->length();
        ASSERT_TRUE(cache.reserve(*s, chunk));
        EXPECT_LE(s->held(0), (window + chunk - 2 + page_size - 1) / page_size + 1);
        // Every key that the chunk's first query sees is held.
        for (int64_t p = std::max<int64_t>(0, before - window + 1); p < before + chunk; ++p)
          EXPECT_GE(s->slot(0, p), 0);
        // Some of the tokens were drafts and are not accepted.
        cache.commit(*s, tokens(1 + static_cast<int64_t>(random()) % chunk));
        EXPECT_LE(s->held(0), (window - 1 + page_size - 1) / page_size + 1);
        EXPECT_EQ(s->held(1), (s->length() + page_size - 1) / page_size);
      }
      EXPECT_LE(cache.peak_held(0), (window + 40 - 2 + page_size - 1) / page_size + 1);
    }
  }
}

// The window layers' share at 4 windows equals that at 2; without the window it grows.
TEST(PagedCache, PeakAgainstLength) {
  auto peak = [](int64_t window, int64_t length) {
    PagedCache cache({.windows = {window, 0}, .page_size = 16, .pages = 1000});
    auto s = cache.open();
    store(cache, *s, tokens(length), 1);
    return cache.peak_held(0);
  };
  EXPECT_EQ(peak(128, 4 * 128), peak(128, 2 * 128));
  EXPECT_GT(peak(0, 4 * 128), peak(0, 2 * 128));
}

TEST(PagedCache, PrefixIsSharedAndOneTokenIsLeft) {
  PagedCache cache({.windows = {0}, .page_size = 16, .pages = 100});
  auto a = cache.open(), b = cache.open(), c = cache.open();
  EXPECT_EQ(prompt(cache, *a, tokens(64)), 64);
  EXPECT_EQ(prompt(cache, *b, tokens(64)), 16);
  EXPECT_EQ(prompt(cache, *c, tokens(65)), 1);
  EXPECT_EQ(std::vector(a->table(0).begin(), a->table(0).end()), std::vector(b->table(0).begin(), b->table(0).end()));
  EXPECT_EQ(cache.pool().held(), 5);
  a.reset(), b.reset(), c.reset();
  EXPECT_EQ(cache.pool().held(), 0);
  EXPECT_EQ(cache.pool().cached(), 4);
  EXPECT_EQ(cache.counters().lookups, 3);
  EXPECT_EQ(cache.counters().hits, 2);
  EXPECT_EQ(cache.counters().hit_tokens, 48 + 64);
}

TEST(PagedCache, PagesAreFoundOnlyAfterTheirStepWasEnqueued) {
  PagedCache cache({.windows = {0}, .page_size = 16, .pages = 100});
  auto a = cache.open();
  cache.match(*a, tokens(40), 40);
  ASSERT_TRUE(cache.reserve(*a, 40));
  EXPECT_EQ(cache.probe(tokens(40)), 0);
  cache.commit(*a, tokens(40));
  EXPECT_EQ(cache.probe(tokens(40)), 32);
}

TEST(PagedCache, EqualHashesAreToldApart) {
  PagedCache cache({.windows = {0}, .page_size = 4, .pages = 100, .hash_mask = 0});
  auto a = cache.open(), b = cache.open();
  prompt(cache, *a, tokens(40));
  EXPECT_EQ(prompt(cache, *b, tokens(40, 1000)), 40);
  EXPECT_EQ(cache.probe(tokens(40)), 36);
}

// A chat drops the reasoning of earlier turns: the second prompt equals the first up to its end, and the first answer
// is longer than the window.
TEST(PagedCache, SecondTurnStartsAtTheFirstPromptsEnd) {
  for (int64_t page_size : {16, 32}) {
    for (int64_t end : {200, 208, 223, 224, 255, 256}) {
      for (int64_t common : {0, 1, 2}) {  // tokens of the first answer that the second prompt repeats
        PagedCache cache({.windows = {128, 0}, .page_size = page_size, .pages = 400});
        std::vector<int32_t> first = tokens(end), answer = tokens(500, 5000), second = tokens(end + common);
        auto a = cache.open();
        prompt(cache, *a, first);
        std::copy(answer.begin(), answer.begin() + common, second.begin() + end);
        for (int32_t id : answer) {
          ASSERT_TRUE(cache.reserve(*a, 1));
          cache.commit(*a, {&id, 1});
        }
        a.reset();
        for (int32_t id : tokens(100, 9000)) second.push_back(id);
        auto b = cache.open();
        const int64_t boundary = (end + common) / page_size * page_size;
        EXPECT_EQ(prompt(cache, *b, second), static_cast<int64_t>(second.size()) - boundary) << end << " " << common;
      }
    }
  }
}

TEST(PagedCache, WindowCheckpointsEveryFewPagesAndWherePromptsMet) {
  PagedCache cache({.windows = {128, 0}, .page_size = 16, .pages = 2000, .checkpoint_tokens = 1024});
  std::vector<int32_t> base = tokens(3000);
  auto a = cache.open();
  prompt(cache, *a, base);
  a.reset();
  auto branch = [&](int64_t at, int32_t mark) {
    std::vector<int32_t> ids(base.begin(), base.begin() + at);
    for (int32_t id : tokens(400, mark)) ids.push_back(id);
    auto s = cache.open();
    return static_cast<int64_t>(ids.size()) - prompt(cache, *s, ids);
  };
  EXPECT_EQ(branch(1100, 10000), 1024);  // the last checkpoint before the difference
  EXPECT_EQ(branch(1100, 20000), 1088);  // the difference is known now
  EXPECT_EQ(branch(3000, 30000), 2992);  // the prompt's own end
}

TEST(PagedCache, ForksCopyThePartialPageOnly) {
  PagedCache cache({.windows = {0, 8}, .page_size = 16, .pages = 100});
  auto a = cache.open();
  prompt(cache, *a, tokens(40));
  auto b = cache.fork(*a);
  const int32_t shared = a->table(0)[2];
  EXPECT_EQ(b->table(0)[2], shared);
  ASSERT_TRUE(cache.reserve(*b, 1));
  std::vector<PageCopy> copies = cache.take_copies();
  ASSERT_EQ(copies.size(), 2u);
  EXPECT_EQ(copies[0].from, shared);
  EXPECT_EQ(copies[0].to, b->table(0)[2]);
  EXPECT_EQ(b->table(0)[1], a->table(0)[1]);
  ASSERT_TRUE(cache.reserve(*a, 1));  // alone on its page again
  EXPECT_TRUE(cache.take_copies().empty());
}

TEST(PagedCache, OldestIsEvictedAndNothingHeld) {
  PagedCache cache({.windows = {0}, .page_size = 16, .pages = 8});
  auto a = cache.open(), b = cache.open();
  prompt(cache, *a, tokens(48));
  prompt(cache, *b, tokens(48, 500));
  a.reset();
  b.reset();
  EXPECT_EQ(cache.pool().cached(), 6);
  auto c = cache.open();
  prompt(cache, *c, tokens(64, 1000));  // takes 2 free and 2 cached pages: the deepest of the older prompt
  EXPECT_EQ(cache.probe(tokens(49)), 16);
  EXPECT_EQ(cache.probe(tokens(49, 500)), 48);
  auto d = cache.open();
  EXPECT_FALSE(cache.reserve(*d, 5 * 16));
  EXPECT_EQ(d->held(0), 0);
  EXPECT_EQ(cache.pool().cached(), 4);
  EXPECT_TRUE(cache.reserve(*d, 4 * 16));
}

// What stays on the device meanwhile is not copied back; what was evicted is, and is found by later prompts again.
TEST(PagedCache, SwappedOutAndBack) {
  PagedCache cache({.windows = {32, 0}, .page_size = 16, .pages = 12, .host_pages = 10});
  auto a = cache.open();
  prompt(cache, *a, tokens(70));  // window: 3 pages; full: 5
  ASSERT_TRUE(cache.reserve(*a, 40));
  ASSERT_TRUE(cache.swap_out(*a));
  EXPECT_EQ(a->length(), 70);
  EXPECT_EQ(cache.pool().held(), 0);
  EXPECT_EQ(cache.host_pool().held(), 8);
  EXPECT_EQ(cache.take_copies().size(), 8u);
  auto b = cache.open();
  prompt(cache, *b, tokens(10, 500));
  EXPECT_FALSE(cache.swap_out(*cache.open()));  // no tokens
  ASSERT_TRUE(cache.swap_out(*b));
  EXPECT_EQ(cache.host_pool().free(), 0);
  ASSERT_TRUE(cache.swap_in(*a));
  std::vector<PageCopy> copies = cache.take_copies();
  ASSERT_EQ(copies.size(), 2u + 2u);  // out: one page a group; back: the partial pages only
  EXPECT_EQ(copies[2].way, PageCopy::Way::kToDevice);
  EXPECT_EQ(copies[2].to, a->table(0)[4]);

  ASSERT_TRUE(cache.swap_out(*a));
  auto c = cache.open();
  prompt(cache, *c, tokens(90, 1000));  // 6 full pages and 3 of the window: evicts what a left
  EXPECT_FALSE(cache.swap_in(*a));
  EXPECT_TRUE(a->swapped_out());
  c.reset();
  (void)cache.take_copies();
  ASSERT_TRUE(cache.swap_in(*a));
  EXPECT_EQ(cache.take_copies().size(), 6u);  // two of the window's pages were still there
  EXPECT_EQ(cache.probe(tokens(70)), 64);
  a.reset(), b.reset();
  EXPECT_EQ(cache.pool().held(), 0);
  EXPECT_EQ(cache.host_pool().held(), 0);
}

TEST(PagedCache, TreeForgetsWhatNothingReaches) {
  PagedCache cache({.windows = {32}, .page_size = 16, .pages = 40});
  for (int32_t i = 0; i < 200; ++i) {
    auto s = cache.open();
    prompt(cache, *s, tokens(300, i * 1000));
  }
  EXPECT_EQ(cache.pool().held(), 0);
  EXPECT_LE(cache.tree_size(), 40 * 19);
}

TEST(CacheSpec, DefaultPagesWasteLessThanHalfAWindow) {
  for (int64_t window : {4, 9, 24, 64, 100, 128, 4096}) {
    const int64_t page_size = default_page_size({{{1, 8, 0}, {1, 8, window}}});
    const int64_t pages = group_pages(window, 1 << 20, 1, page_size);
    EXPECT_LT(pages * page_size - window, (window + 1) / 2 + 1) << window;
    EXPECT_EQ(page_size == 32, window >= 128);
  }
  EXPECT_EQ(default_page_size({{{1, 8, 0}}}), 32);
}

}  // namespace
}  // namespace tessera
