// Attention and cache rows against the reference: pages in random order, unused ones poisoned, sequences of many
// lengths, and the same bits however the queries are batched.
#include "kernels/testing.h"

namespace tessera {
namespace {

using namespace tessera::testing;

struct Sequence {
  int64_t queries, context;
};

struct Case {
  std::vector<Sequence> sequences;
  int64_t heads, kv_heads, d, page_size, window;
  bool sinks;
  DType act = DType::kF32, cache = DType::kF32;
};

// Pages that hold no visible key stay NaN; table entries for keys before every query's window are not page numbers at
// all.
AttentionArgs make(Operands& o, const Case& c) {
  AttentionArgs a;
  int64_t tokens = 0, most_pages = 1, pages = 1;
  std::vector<int32_t> starts = {0}, contexts;
  for (const Sequence& s : c.sequences) {
    starts.push_back(static_cast<int32_t>(tokens += s.queries));
    contexts.push_back(static_cast<int32_t>(s.context));
    int64_t used = (s.context + c.page_size - 1) / c.page_size;
    most_pages = std::max(most_pages, used), pages += used;
    a.max_queries = std::max(a.max_queries, s.queries), a.max_context = std::max(a.max_context, s.context);
  }
  a.q = o.normal(c.act, {tokens, c.heads, c.d}, 2.0f);
  a.cache.k = o.poison(c.cache, {pages, c.kv_heads, c.page_size, c.d});
  a.cache.v = o.poison(c.cache, {pages, c.kv_heads, c.page_size, c.d});
  std::vector<int32_t> order(static_cast<size_t>(pages));
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
  std::shuffle(order.begin(), order.end(), o.random);
  std::vector<int32_t> table(c.sequences.size() * static_cast<size_t>(most_pages), INT32_MAX);
  std::normal_distribution<float> normal;
  size_t next = 0;
  for (size_t b = 0; b < c.sequences.size(); ++b) {
    const Sequence& s = c.sequences[b];
    int64_t first = c.window > 0 ? std::max<int64_t>(0, s.context - s.queries - c.window + 1) : 0;
    if (s.queries == 0) first = s.context;
    for (int64_t p = first; p < s.context; ++p) {
      int32_t& page = table[b * static_cast<size_t>(most_pages) + static_cast<size_t>(p / c.page_size)];
      if (page == INT32_MAX) page = order[next++];
      for (int64_t h = 0; h < c.kv_heads; ++h) {
        for (int64_t i = 0; i < c.d; ++i) {
          int64_t at = ((page * c.kv_heads + h) * c.page_size + p % c.page_size) * c.d + i;
          set_value(a.cache.k, at, normal(o.random));
          set_value(a.cache.v, at, normal(o.random));
        }
      }
    }
  }
  a.page_table = o.ints({static_cast<int64_t>(c.sequences.size()), most_pages}, table);
  a.query_start = o.ints({static_cast<int64_t>(starts.size())}, starts);
  a.context = o.ints({static_cast<int64_t>(contexts.size())}, contexts);
  if (c.sinks) a.sinks = o.normal(o.random() % 2 ? c.act : DType::kF32, {c.heads}, 2.0f);
  a.window = c.window;
  a.scale = 1.0f / std::sqrt(static_cast<float>(c.d));
  return a;
}

void check(const Case& c) {
  uint32_t seed = fresh_seed();
  SCOPED_TRACE("seed " + std::to_string(seed) + " heads=" + std::to_string(c.heads) + "/" + std::to_string(c.kv_heads) +
               " D=" + std::to_string(c.d) + " P=" + std::to_string(c.page_size) + " W=" + std::to_string(c.window));
  Operands o(seed);
  ThreadPool pool(2);
  AttentionArgs args = make(o, c);
  auto rows = all_rows(&Kernels::attention);
  AttentionArgs expected = args;
  expected.out = o.guarded(c.act, args.q.shape);
  launch(rows.back(), expected, pool);
  for (int64_t i = 0; i < expected.out.numel(); ++i) ASSERT_FALSE(std::isnan(value_at(expected.out, i)));
  for (const auto& row : rows) {
    if (!row.supports(args)) continue;
    args.out = o.guarded(c.act, args.q.shape);
    launch(row, args, pool);
    expect_close(args.out, expected.out, 5e-6, row.name);
  }
  o.check_guards();
}

const std::vector<Sequence> kMixed = {{1, 1}, {0, 40}, {5, 5}, {1, 77}, {33, 130}, {0, 0}, {1, 64}, {2, 65}, {17, 200}};

TEST(Attention, EveryRowAgreesWithTheReference) {
  for (int64_t window : {0, 1, 8, 16, 63, 128, 1000}) {
    for (int64_t page_size : {1, 5, 16, 64}) {
      for (bool sinks : {true, false}) {
        check({kMixed, 8, 2, 16, page_size, window, sinks});
      }
    }
  }
}

TEST(Attention, HeadShapes) {
  struct Heads {
    int64_t heads, kv_heads, d;
  };
  for (Heads h : {Heads{64, 8, 64},
                  {4, 4, 32},
                  {6, 2, 80},
                  {5, 1, 96},
                  {4, 1, 128},
                  {2, 1, 256},
                  {3, 3, 8},
                  {70, 1, 24},
                  {2, 2, 7},
                  {2, 1, 320}}) {
    check({{{3, 90}, {1, 10}}, h.heads, h.kv_heads, h.d, 16, 40, true});
  }
}

TEST(Attention, TypesOfActivationsAndCache) {
  for (DType act : kFloats)
    for (DType cache : {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E4M3})
      check({kMixed, 8, 2, 64, 16, act == cache ? 50 : 0, true, act, cache});
}

TEST(Attention, LongContextsThatAreSplit) {
  check({{{1, 2500}}, 8, 1, 16, 32, 0, true});
  check({{{1, 1025}, {1, 1024}, {2, 3000}}, 4, 2, 16, 16, 0, false});
  check({{{40, 2100}}, 4, 2, 16, 16, 1500, true});
  check({{{600, 1300}, {1, 2048}}, 2, 1, 8, 16, 0, true});
}

// A long prompt in one step, in chunks, and token by token, with the keys that come later absent or present.
TEST(Attention, SameBitsHoweverTheQueriesAreBatched) {
  for (int64_t window : {0, 100, 1100}) {
    for (int64_t heads : {8, 1}) {
      uint32_t seed = fresh_seed();
      SCOPED_TRACE(seed);
      Operands o(seed);
      const int64_t context = 2200, queries = 150;
      AttentionArgs all = make(o, {{{queries, context}}, heads, 1, 32, 16, window, true, DType::kF32, DType::kBF16});
      for (const auto& row : all_rows(&Kernels::attention)) {
        ThreadPool two(2);
        all.out = o.guarded(DType::kF32, all.q.shape);
        launch(row, all, two);
        for (int64_t group : {1, 2, 7, 64}) {
          ThreadPool pool(static_cast<int>(group % 3 + 1));
          for (int64_t t = 0; t < queries; t += group * 5) {
            int64_t count = std::min(group, queries - t);
            AttentionArgs some = all;
            some.q = all.q.rows(t, count);
            some.query_start = o.ints({2}, {0, static_cast<int32_t>(count)});
            some.max_context = context - queries + t + count, some.max_queries = count;
            some.context = o.ints({1}, {static_cast<int32_t>(some.max_context)});
            some.out = o.guarded(DType::kF32, some.q.shape);
            launch(row, some, pool);
            expect_same_bits(some.out, all.out.rows(t, count),
                             row.name + std::string(" in groups of ") + std::to_string(group));
          }
        }
      }
    }
  }
}

TEST(Attention, RowsRefuseTooLargeHeads) {
  Operands o(1);
  AttentionArgs args = make(o, {{{1, 1}}, 1, 1, 320, 16, 0, false});
  auto rows = all_rows(&Kernels::attention);
  for (const auto& row : rows) EXPECT_EQ(static_cast<bool>(row.supports(args)), &row == &rows.back());
}

TEST(KvWrite, EveryRowAgreesWithTheReference) {
  for (DType act : kFloats) {
    for (DType cache : {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E4M3}) {
      for (int64_t d : {8, 20, 64}) {
        Operands o(fresh_seed());
        ThreadPool pool(2);
        const int64_t tokens = 40, heads = 3, pages = 4, page_size = 16;
        std::vector<int32_t> slots(static_cast<size_t>(pages * page_size));
        for (size_t i = 0; i < slots.size(); ++i) slots[i] = static_cast<int32_t>(i);
        std::shuffle(slots.begin(), slots.end(), o.random);
        slots.resize(static_cast<size_t>(tokens));
        slots[3] = slots[17] = -1;
        KvWriteArgs args{
            o.normal(act, {tokens, heads, d}), o.normal(act, {tokens, heads, d}), o.ints({tokens}, slots), {}};
        auto rows = all_rows(&Kernels::kv_write);
        KvWriteArgs expected = args;
        expected.cache = {o.guarded(cache, {pages, heads, page_size, d}),
                          o.guarded(cache, {pages, heads, page_size, d})};
        launch(rows.back(), expected, pool);
        for (const auto& row : rows) {
          args.cache = {o.guarded(cache, {pages, heads, page_size, d}), o.guarded(cache, {pages, heads, page_size, d})};
          launch(row, args, pool);
          expect_same_bits(args.cache.k, expected.cache.k, row.name);
          expect_same_bits(args.cache.v, expected.cache.v, row.name);
        }
        o.check_guards();
      }
    }
  }
}

}  // namespace
}  // namespace tessera
