// Dispatch against one rank with all experts, and what it sends, under even and skewed routing.
#include "layers/expert_dispatch.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "parallel/thread_group.h"

namespace tessera {
namespace {

constexpr int64_t kTokens = 13, kHidden = 8, kInner = 6, kExperts = 7, kActive = 3;

struct Problem {
  std::vector<float> x, gate_up, down, down_bias, weights;
  std::vector<int32_t> indices;

  explicit Problem(bool skewed) {
    std::mt19937 random(5);
    std::normal_distribution<float> normal;
    auto fill = [&](std::vector<float>& v, int64_t n) {
      v.resize(static_cast<size_t>(n));
      for (float& f : v) f = normal(random);
    };
    fill(x, kTokens * kHidden), fill(gate_up, kExperts * 2 * kInner * kHidden), fill(down, kExperts * kHidden * kInner);
    fill(down_bias, kExperts * kHidden), fill(weights, kTokens * kActive);
    std::vector<int32_t> order(kExperts);
    for (int32_t e = 0; e < kExperts; ++e) order[static_cast<size_t>(e)] = e;
    for (int64_t t = 0; t < kTokens; ++t) {
      if (!skewed) std::shuffle(order.begin(), order.end(), random);
      indices.insert(indices.end(), order.begin(), order.begin() + kActive);
    }
  }

  static Tensor f32(std::vector<float>& v, Shape shape) { return {v.data(), shape, DType::kF32, Device{}}; }
  MoeArgs args() {
    MoeArgs a{
        .x = f32(x, {kTokens, kHidden}),
        .indices = {indices.data(), {kTokens, kActive}, DType::kI32, Device{}},
        .weights = f32(weights, {kTokens, kActive}),
        .gate_up = {.values = f32(gate_up, {kExperts, 2 * kInner, kHidden}),
                    .experts = kExperts,
                    .n = 2 * kInner,
                    .k = kHidden},
        .down = {.values = f32(down, {kExperts, kHidden, kInner}), .experts = kExperts, .n = kHidden, .k = kInner},
        .down_bias = f32(down_bias, {kExperts, kHidden})};
    return a;
  }
};

// A rank's experts; it holds all of their inner width, and the bias where `biased`.
MoeArgs own_part(MoeArgs a, Range experts) {
  for (Weight* w : {&a.gate_up, &a.down}) {
    w->values = w->values.rows(experts.begin, experts.count);
    w->experts = experts.count;
  }
  a.down_bias = a.down_bias.rows(experts.begin, experts.count);
  a.first_expert = experts.begin;
  return a;
}

void check(int ranks, bool skewed) {
  SCOPED_TRACE(testing::Message() << ranks << " ranks, skewed " << skewed);
  Problem problem(skewed);
  const Kernels kernels = Kernels::reference();
  ThreadPool pool(1);
  std::vector<float> want(kTokens * kHidden), workspace(1 << 16);
  MoeArgs all = problem.args();
  all.out = Problem::f32(want, {kTokens, kHidden});
  Stream stream{.pool = &pool, .workspace = workspace.data()};
  kernels.moe.rows[0].launch(all, stream);

  const Mesh mesh{.tensor = ranks, .expert = ranks};
  std::vector<int64_t> sent(static_cast<size_t>(ranks));
  run_thread_ranks(ranks, [&](Communicator& world) {
    const int me = world.rank();
    ThreadPool own_pool(1);
    std::vector<float> space(1 << 16), got(kTokens * kHidden);
    Arena scratch(1 << 20);
    const StepRanks place{.mesh = mesh, .rank = me, .world = &world, .tensor = &world};
    Step step;
    step.kernels = &kernels;
    step.scratch = &scratch;
    step.stream = {.pool = &own_pool, .workspace = space.data()};
    step.ranks = &place;
    MoeArgs a = own_part(problem.args(), expert_share(kExperts, mesh, me));
    a.out = Problem::f32(got, {kTokens, kHidden});
    dispatch_experts(step, a, kExperts);
    for (size_t i = 0; i < got.size(); ++i)
      if (!(std::abs(got[i] - want[i]) <= 1e-4f)) fail(ErrorCode::kIo, "value {} is {}, not {}", i, got[i], want[i]);
    sent[static_cast<size_t>(me)] = world.traffic().all_to_all;
  });

  // Out: once to each other rank that holds one of a home token's experts. Back: an answer for each token that came.
  for (int r = 0; r < ranks; ++r) {
    int64_t rows = 0;
    for (int home = 0; home < ranks; ++home) {
      const Range tokens = share(kTokens, ranks, home);
      for (int64_t t = tokens.begin; t < tokens.end(); ++t) {
        std::vector<bool> goes(static_cast<size_t>(ranks));
        for (int64_t i = 0; i < kActive; ++i)
          for (int owner = 0; owner < ranks; ++owner) {
            const Range held = expert_share(kExperts, mesh, owner);
            const int32_t e = problem.indices[static_cast<size_t>(t * kActive + i)];
            if (e >= held.begin && e < held.end()) goes[static_cast<size_t>(owner)] = true;
          }
        for (int owner = 0; owner < ranks; ++owner)
          if (goes[static_cast<size_t>(owner)] && owner != home) rows += (home == r) + (owner == r);
      }
    }
    EXPECT_EQ(sent[static_cast<size_t>(r)], rows * kHidden * 4) << "rank " << r;
  }
}

TEST(ExpertDispatch, SameSumsAndNothingSentTwice) {
  for (int ranks : {2, 3, 4, 7})
    for (bool skewed : {false, true}) check(ranks, skewed);
}

}  // namespace
}  // namespace tessera
