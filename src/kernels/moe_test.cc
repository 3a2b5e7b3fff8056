// Mixture-of-experts rows against the reference, and the same bits in any company.
#include "kernels/testing.h"

namespace tessera {
namespace {

using namespace tessera::testing;

struct Case {
  int64_t tokens, hidden, inner, experts, active;
  bool mxfp4;
  DType act, weight;
  MoeActivation activation;
  bool bias;
};

MoeArgs make(Operands& o, const Case& c) {
  MoeArgs a;
  a.x = o.normal(c.act, {c.tokens, c.hidden});
  a.indices = o.uninitialised(DType::kI32, {c.tokens, c.active});
  for (int64_t t = 0; t < c.tokens; ++t) {
    std::vector<int32_t> experts;
    for (int32_t e = 0; e < c.experts; ++e) experts.push_back(e);
    std::shuffle(experts.begin(), experts.end(), o.random);
    // Expert 0 is hot, so that expert groups differ in size.
    if (t % 2 == 0) std::swap(experts[0], *std::find(experts.begin(), experts.end(), 0));
    for (int64_t i = 0; i < c.active; ++i) a.indices.i32()[t * c.active + i] = experts[static_cast<size_t>(i)];
  }
  a.weights = o.normal(DType::kF32, {c.tokens, c.active}, 0.3f, 0.5f);
  a.gate_up = c.mxfp4 ? o.mxfp4(c.experts, 2 * c.inner, c.hidden) : o.plain(c.weight, c.experts, 2 * c.inner, c.hidden);
  a.down = c.mxfp4 ? o.mxfp4(c.experts, c.hidden, c.inner) : o.plain(c.weight, c.experts, c.hidden, c.inner);
  if (c.bias) {
    a.gate_up_bias = o.normal(c.weight, {c.experts, 2 * c.inner});
    a.down_bias = o.normal(c.act, {c.experts, c.hidden});
  }
  a.activation = c.activation;
  a.limit = 1.5f;  // so that it bites
  return a;
}

void check(const Case& c) {
  uint32_t seed = fresh_seed();
  SCOPED_TRACE("seed " + std::to_string(seed) + " T=" + std::to_string(c.tokens) + " H=" + std::to_string(c.hidden) +
               " I=" + std::to_string(c.inner) + " E=" + std::to_string(c.experts));
  Operands o(seed);
  ThreadPool pool(2);
  MoeArgs args = make(o, c);
  auto rows = accepting_rows(&Kernels::moe, args);
  MoeArgs expected = args;
  expected.out = o.guarded(c.act, {c.tokens, c.hidden});
  launch(rows.back(), expected, pool);
  for (const auto& row : rows) {
    args.out = o.guarded(c.act, {c.tokens, c.hidden});
    launch(row, args, pool);
    expect_close(args.out, expected.out, 5e-6, row.name);
  }
  o.check_guards();
}

TEST(Moe, EveryRowAgreesWithTheReference) {
  for (auto activation : {MoeActivation::kSwigluOai, MoeActivation::kSilu}) {
    for (int64_t tokens : {1, 2, 5, 17, 70}) {
      for (DType act : kFloats) {
        check({tokens, 64, 96, 8, 4, true, act, DType::kBF16, activation, true});
        check({tokens, 96, 32, 5, 2, true, act, DType::kF32, activation, false});
        for (DType weight : kFloats) check({tokens, 70, 45, 6, 3, false, act, weight, activation, tokens % 2 == 0});
      }
    }
    check({3, 33, 1, 2, 1, false, DType::kF32, DType::kF32, activation, true});
    check({600, 32, 32, 4, 2, true, DType::kF32, DType::kF32, activation, true});  // more tokens than one pass routes
  }
}

TEST(Moe, LongRows) {
  check({2, 2880, 320, 4, 2, true, DType::kF32, DType::kBF16, MoeActivation::kSwigluOai, true});
}

TEST(Moe, OneExpertGetsAllTokens) {
  Operands o(fresh_seed());
  ThreadPool pool(2);
  MoeArgs args = make(o, {90, 64, 64, 8, 1, true, DType::kF32, DType::kBF16, MoeActivation::kSwigluOai, true});
  std::fill_n(args.indices.i32(), 90, 7);
  auto rows = accepting_rows(&Kernels::moe, args);
  MoeArgs expected = args;
  expected.out = o.guarded(DType::kF32, {90, 64});
  launch(rows.back(), expected, pool);
  for (const auto& row : rows) {
    args.out = o.guarded(DType::kF32, {90, 64});
    launch(row, args, pool);
    expect_close(args.out, expected.out, 5e-6, row.name);
  }
}

TEST(Moe, SameBitsInAnyCompanyAndOnAnyNumberOfThreads) {
  for (bool mxfp4 : {true, false}) {
    uint32_t seed = fresh_seed();
    SCOPED_TRACE(seed);
    Operands o(seed);
    const int64_t tokens = 63, hidden = 96;
    MoeArgs all =
        make(o, {tokens, hidden, 160, 6, 3, mxfp4, DType::kBF16, DType::kBF16, MoeActivation::kSwigluOai, true});
    for (const auto& row : accepting_rows(&Kernels::moe, all)) {
      ThreadPool two(2);
      all.out = o.guarded(DType::kF32, {tokens, hidden});
      launch(row, all, two);
      for (int64_t group : {1, 2, 5, 16}) {
        ThreadPool pool(static_cast<int>(group % 3 + 1));
        for (int64_t t = 0; t < tokens; t += group) {
          int64_t count = std::min(group, tokens - t);
          MoeArgs some = all;
          some.x = all.x.rows(t, count), some.indices = all.indices.rows(t, count),
          some.weights = all.weights.rows(t, count);
          some.out = o.guarded(DType::kF32, {count, hidden});
          launch(row, some, pool);
          expect_same_bits(some.out, all.out.rows(t, count), row.name);
        }
      }
    }
  }
}

// A rank that holds experts 2 to 4 of 8, and one that holds none of their inner width.
TEST(Moe, ExpertsElsewhereAddNothing) {
  for (bool mxfp4 : {true, false}) {
    for (int64_t tokens : {1, 7, 40}) {
      uint32_t seed = fresh_seed();
      SCOPED_TRACE(seed);
      Operands o(seed);
      ThreadPool pool(2);
      MoeArgs args = make(o, {tokens, 64, 32, 3, 2, mxfp4, DType::kF32, DType::kF32, MoeActivation::kSwigluOai, true});
      MoeArgs held = args;  // the same, with weight 0 for what is elsewhere
      held.indices = o.uninitialised(DType::kI32, {tokens, 2});
      held.weights = o.normal(DType::kF32, {tokens, 2});
      for (int64_t i = 0; i < tokens * 2; ++i) {
        const auto global = static_cast<int32_t>(o.random() % 8);
        const bool here = global >= 2 && global < 5;
        args.indices.i32()[i] = global;
        held.indices.i32()[i] = here ? global - 2 : 0;
        held.weights.f32()[i] = here ? args.weights.f32()[i] : 0.0f;
      }
      args.first_expert = 2;
      auto rows = accepting_rows(&Kernels::moe, args);
      held.out = o.guarded(DType::kF32, {tokens, 64});
      launch(rows.back(), held, pool);
      for (const auto& row : rows) {
        args.out = o.guarded(DType::kF32, {tokens, 64});
        launch(row, args, pool);
        expect_close(args.out, held.out, 5e-6, row.name);
      }
    }
  }
}

TEST(Moe, NoInnerWidthLeavesTheBias) {
  Operands o(fresh_seed());
  ThreadPool pool(1);
  MoeArgs args = make(o, {5, 64, 32, 4, 2, true, DType::kF32, DType::kF32, MoeActivation::kSwigluOai, true});
  args.gate_up.n = args.gate_up.values.shape[1] = args.gate_up.scales.shape[1] = 0;
  args.down.k = args.down.values.shape[2] = args.down.scales.shape[2] = 0;
  args.gate_up_bias.shape[1] = 0;
  for (const auto& row : accepting_rows(&Kernels::moe, args)) {
    args.out = o.guarded(DType::kF32, {5, 64});
    launch(row, args, pool);
    for (int64_t t = 0; t < 5; ++t) {
      float want = 0;
      for (int64_t i = 0; i < 2; ++i)
        want += args.weights.f32()[t * 2 + i] * args.down_bias.f32()[args.indices.i32()[t * 2 + i] * 64 + 9];
      EXPECT_NEAR(args.out.f32()[t * 64 + 9], want, 1e-5f) << row.name;
    }
  }
}

}  // namespace
}  // namespace tessera
