// Random sequences come, match, grow, draft, fork, move to host memory and back, and go, over a model of the cache
// memory: each slot remembers the whole prefix that was stored there. Every token that a later query sees must then
// read back as its own sequence's prefix. TESSERA_RANDOM_OPERATIONS sets how many operations run (default 60,000 a
// case).
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <random>

#include "cache/paged_cache.h"

namespace tessera {
namespace {

struct Live {
  std::unique_ptr<CacheSequence> pages;
  std::vector<int32_t> tokens;
  std::vector<uint64_t> prefix;  // of tokens[0..i]
  std::vector<int32_t> prompt;   // not yet stored
};

class World {
 public:
  World(CacheOptions options, uint32_t seed)
      : options_(options),
        cache_(options),
        random_(seed),
        memory_(static_cast<size_t>(options.pages * options.page_size)),
        host_memory_(static_cast<size_t>(options.host_pages * options.page_size)) {}

  void run(int64_t operations) {
    for (int64_t i = 0; i < operations && !testing::Test::HasFailure(); ++i) {
      const uint32_t action = below(100);
      if (live_.empty() || action < 12) {
        open();
      } else if (action < 80) {
        if (Live* s = pick(false)) grow(*s);
      } else if (action < 84) {
        if (Live* s = pick(false)) fork(*s);
      } else if (action < 87) {
        if (Live* s = pick(false)) swap_out(*s);
      } else if (action < 91) {
        if (Live* s = pick(true)) swap_in(*s);
      } else {
        close();
      }
      if (i % 64 == 0) check_counts();
    }
    live_.clear();
    EXPECT_EQ(cache_.pool().held(), 0);
    EXPECT_EQ(cache_.host_pool().free(), cache_.host_pool().capacity());
    EXPECT_EQ(cache_.pool().free() + cache_.pool().cached(), cache_.pool().capacity());
    for (size_t g = 0; g < options_.windows.size(); ++g) EXPECT_EQ(cache_.held(g), 0);
  }

  PagedCache& cache() { return cache_; }

 private:
  uint32_t below(uint32_t n) { return static_cast<uint32_t>(random_() % n); }
  Live* pick(bool swapped_out) {
    Live& s = live_[below(static_cast<uint32_t>(live_.size()))];
    return s.pages->swapped_out() == swapped_out ? &s : nullptr;
  }

  // Few different tokens and few beginnings, so that prompts meet often and part late.
  void open() {
    Live s{cache_.open(), {}, {}, {}};
    const uint32_t family = below(6);
    const uint32_t length = 1 + below(120);
    for (uint32_t i = 0; i < length; ++i)
      s.prompt.push_back(static_cast<int32_t>(below(40) ? (family * 7 + i) % 5 : below(5)));
    const int64_t hit = cache_.match(*s.pages, s.prompt, length);
    ASSERT_LT(hit, length);
    ASSERT_EQ(hit % options_.page_size, 0);
    for (int64_t i = 0; i < hit; ++i) push(s, s.prompt[static_cast<size_t>(i)]);
    s.prompt.erase(s.prompt.begin(), s.prompt.begin() + hit);
    make_copies();
    check(s, 0);
    live_.push_back(std::move(s));
  }

  void push(Live& s, int32_t token) {
    uint64_t above = s.prefix.empty() ? 1 : s.prefix.back();
    s.tokens.push_back(token);
    s.prefix.push_back((above ^ static_cast<uint64_t>(token + 1)) * 0x9e3779b97f4a7c15u + (above >> 29));
  }

  uint64_t& memory(int32_t slot) {
    EXPECT_GE(slot, 0);
    return memory_[static_cast<size_t>(slot)];
  }

  void grow(Live& s) {
    const uint32_t count = 1 + below(s.prompt.empty() ? 4 : 40);
    const int32_t available = cache_.available();
    const int64_t stored = s.pages->length();
    if (!cache_.reserve(*s.pages, count)) {
      EXPECT_EQ(cache_.available(), available);
      return close();
    }
    make_copies();
    std::vector<int32_t> added;
    for (uint32_t i = 0; i < count; ++i) {
      added.push_back(i < s.prompt.size() ? s.prompt[i] : static_cast<int32_t>(below(3)));
      push(s, added.back());
    }
    for (size_t g = 0; g < options_.windows.size(); ++g)
      for (uint32_t i = 0; i < count; ++i)
        memory(s.pages->slot(g, stored + i)) = s.prefix[static_cast<size_t>(stored + i)] + g;
    check(s, count);
    uint32_t accepted = s.prompt.empty() ? below(count + 1) : count;  // drafts may be refused
    cache_.commit(*s.pages, std::span(added).first(accepted));
    s.tokens.resize(static_cast<size_t>(stored + accepted));
    s.prefix.resize(s.tokens.size());
    s.prompt.erase(s.prompt.begin(), s.prompt.begin() + std::min<size_t>(accepted, s.prompt.size()));
    check(s, 0);
    for (size_t g = 0; g < options_.windows.size(); ++g) {
      if (options_.windows[g] == 0) continue;
      EXPECT_LE(s.pages->held(g), (options_.windows[g] - 1 + options_.page_size - 1) / options_.page_size + 1);
    }
  }

  void make_copies() {
    for (const PageCopy& copy : cache_.take_copies()) {
      const auto& from = copy.way == PageCopy::Way::kToDevice ? host_memory_ : memory_;
      auto& to = copy.way == PageCopy::Way::kToHost ? host_memory_ : memory_;
      std::copy_n(from.begin() + copy.from * options_.page_size, options_.page_size,
                  to.begin() + copy.to * options_.page_size);
    }
  }

  // Copies wait for the next step, as they do between plans: pages change hands meanwhile.
  void swap_out(Live& s) {
    const int32_t free = cache_.host_pool().free();
    if (cache_.swap_out(*s.pages)) {
      EXPECT_LT(cache_.host_pool().free(), free);
      EXPECT_EQ(s.pages->length(), static_cast<int64_t>(s.tokens.size()));
    } else {
      EXPECT_EQ(cache_.host_pool().free(), free);
      make_copies();
      check(s, 0);
    }
  }

  void swap_in(Live& s) {
    const int32_t available = cache_.available(), free = cache_.host_pool().free();
    if (cache_.swap_in(*s.pages)) {
      if (below(2) == 0) return;
      make_copies();
      check(s, 0);
    } else {
      EXPECT_EQ(cache_.available(), available);
      EXPECT_EQ(cache_.host_pool().free(), free);
      EXPECT_TRUE(s.pages->swapped_out());
    }
  }

  void fork(const Live& s) {
    Live copy{cache_.fork(*s.pages), s.tokens, s.prefix, s.prompt};
    make_copies();
    check(copy, 0);
    live_.push_back(std::move(copy));
  }

  void close() { live_.erase(live_.begin() + static_cast<long>(below(static_cast<uint32_t>(live_.size())))); }

  // Everything that the next query, or the first of `count` queries just reserved, sees.
  void check(const Live& s, int64_t count) {
    const int64_t length = s.pages->length();
    for (size_t g = 0; g < options_.windows.size(); ++g) {
      const int64_t window = options_.windows[g];
      const int64_t first = window == 0 ? 0 : std::max<int64_t>(0, length - window + 1);
      for (int64_t p = first; p < length + count; ++p)
        ASSERT_EQ(memory(s.pages->slot(g, p)), s.prefix[static_cast<size_t>(p)] + g) << "group " << g << " token " << p;
    }
  }

  // Holders are exactly the tables' entries.
  void check_counts() {
    std::map<int32_t, int32_t> holders;
    std::map<int32_t, int32_t> host;
    for (const Live& s : live_)
      for (size_t g = 0; g < options_.windows.size(); ++g)
        for (int32_t page : s.pages->table(g))
          if (page != CacheSequence::kReleased) ++(s.pages->swapped_out() ? host : holders)[page];
    for (auto [page, count] : host) ASSERT_EQ(count, 1) << "host page " << page;
    ASSERT_EQ(static_cast<size_t>(cache_.host_pool().held()), host.size());
    for (int32_t page = 0; page < cache_.pool().capacity(); ++page) {
      auto it = holders.find(page);
      ASSERT_EQ(cache_.pool().holders(page), it == holders.end() ? 0 : it->second) << "page " << page;
    }
    ASSERT_EQ(static_cast<size_t>(cache_.pool().held()), holders.size());
    ASSERT_EQ(cache_.pool().free() + cache_.pool().cached() + cache_.pool().held(), cache_.pool().capacity());
  }

  CacheOptions options_;
  PagedCache cache_;
  std::mt19937 random_;
  std::vector<uint64_t> memory_, host_memory_;
  std::vector<Live> live_;
};

int64_t operations() {
  const char* text = std::getenv("TESSERA_RANDOM_OPERATIONS");
  return text ? std::atoll(text) : 60000;
}

struct Case {
  const char* name;
  CacheOptions options;
};

class PagedCacheRandom : public testing::TestWithParam<Case> {};

TEST_P(PagedCacheRandom, EveryVisibleTokenReadsBack) {
  World world(GetParam().options, 5);
  world.run(operations());
  const CacheCounters& c = world.cache().counters();
  if (GetParam().options.prefix_cache) {
    EXPECT_GT(c.hits, 100);
    EXPECT_GT(c.evicted_pages, 100);
  }
  EXPECT_TRUE(c.copied_pages > 100 || GetParam().options.page_size == 1);
  EXPECT_EQ(c.swapped_out_pages > 100, GetParam().options.host_pages > 0);
  EXPECT_EQ(c.swapped_in_pages > 100, GetParam().options.host_pages > 0);
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, PagedCacheRandom,
    testing::Values(Case{"full", {.windows = {0}, .page_size = 8, .pages = 120}},
                    Case{"window", {.windows = {20}, .page_size = 8, .pages = 60, .checkpoint_tokens = 32}},
                    Case{"hybrid", {.windows = {20, 0}, .page_size = 8, .pages = 160, .checkpoint_tokens = 64}},
                    Case{"colliding", {.windows = {0, 33, 0, 5}, .page_size = 4, .pages = 400, .hash_mask = 3}},
                    Case{"tiny_pages", {.windows = {0, 7}, .page_size = 1, .pages = 900, .checkpoint_tokens = 16}},
                    Case{"no_prefixes", {.windows = {16, 0}, .page_size = 8, .pages = 120, .prefix_cache = false}},
                    Case{"swapped", {.windows = {20, 0}, .page_size = 8, .pages = 100, .host_pages = 150}},
                    Case{"swapped_full", {.windows = {0, 0}, .page_size = 8, .pages = 120, .host_pages = 60}},
                    Case{"swapped_window", {.windows = {20}, .page_size = 8, .pages = 40, .host_pages = 40}},
                    Case{"swapped_no_prefixes",
                         {.windows = {16, 0}, .page_size = 8, .pages = 100, .host_pages = 80, .prefix_cache = false}}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace tessera
