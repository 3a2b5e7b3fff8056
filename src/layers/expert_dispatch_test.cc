// Dispatch against one rank with all experts, and what it sends, under even and skewed routing.
#include "layers/expert_dispatch.h"

#include <gtest/gtest.h>

#include <algorithm>
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

// Groups of ranks that hold tokens of their own: their sizes add up to kTokens, and of odd ones the last is no token.
void check_groups(int group_ranks, const std::vector<int64_t>& sizes, bool skewed) {
  const int groups = static_cast<int>(sizes.size()), ranks = groups * group_ranks;
  SCOPED_TRACE(testing::Message() << groups << " groups of " << group_ranks << ", skewed " << skewed);
  Problem problem(skewed);
  const Kernels kernels = Kernels::reference();
  ThreadPool pool(1);
  std::vector<float> want(kTokens * kHidden), workspace(1 << 16);
  MoeArgs all = problem.args();
  all.out = Problem::f32(want, {kTokens, kHidden});
  Stream stream{.pool = &pool, .workspace = workspace.data()};
  kernels.moe.rows[0].launch(all, stream);
  std::vector<int64_t> start;
  for (int64_t at = 0; int64_t size : sizes) start.push_back(at), at += size;
  auto live_of = [&](size_t g) { return sizes[g] - static_cast<int64_t>(g % 2); };

  const Mesh mesh{.tensor = group_ranks, .expert = ranks, .split_tokens = true};
  std::vector<int64_t> sent(static_cast<size_t>(ranks));
  run_thread_ranks(ranks, [&](Communicator& world) {
    const int me = world.rank();
    const auto g = static_cast<size_t>(me / group_ranks);
    const std::unique_ptr<Communicator> tensor = world.split(me / group_ranks),
                                        replicas = world.split(me % group_ranks);
    ThreadPool own_pool(1);
    std::vector<float> space(1 << 16), got(static_cast<size_t>(sizes[g] * kHidden));
    Arena scratch(1 << 20);
    const StepRanks place{
        .mesh = mesh, .rank = me, .world = &world, .tensor = tensor.get(), .replicas = replicas.get()};
    Step step;
    step.kernels = &kernels;
    step.scratch = &scratch;
    step.stream = {.pool = &own_pool, .workspace = space.data()};
    step.ranks = &place;
    auto live = static_cast<int32_t>(live_of(g));
    step.groups = {.tokens = sizes, .live = {&live, {1}, DType::kI32, Device{}}};
    MoeArgs a = own_part(problem.args(), expert_share(kExperts, mesh, me));
    a.x = a.x.rows(start[g], sizes[g]);
    a.indices = a.indices.rows(start[g], sizes[g]), a.weights = a.weights.rows(start[g], sizes[g]);
    a.out = Problem::f32(got, {sizes[g], kHidden});
    dispatch_experts(step, a, kExperts);
    for (size_t i = 0; i < got.size(); ++i) {
      const bool token = static_cast<int64_t>(i) < live * kHidden;
      const float right = token ? want[static_cast<size_t>(start[g] * kHidden) + i] : 0.0f;
      if (!(std::abs(got[i] - right) <= 1e-4f)) fail(ErrorCode::kIo, "value {} is {}, not {}", i, got[i], right);
    }
    sent[static_cast<size_t>(me)] = world.traffic().all_to_all;
  });

  std::vector<int64_t> rows(static_cast<size_t>(ranks), 0);
  for (size_t g = 0; g < sizes.size(); ++g) {
    for (int64_t t = 0; t < live_of(g); ++t) {
      int home = static_cast<int>(g) * group_ranks;
      while (share(sizes[g], group_ranks, home % group_ranks).end() <= t) ++home;
      for (int owner = 0; owner < ranks; ++owner) {
        const Range held = expert_share(kExperts, mesh, owner);
        const int32_t* ids = &problem.indices[static_cast<size_t>((start[g] + t) * kActive)];
        if (owner == home ||
            std::none_of(ids, ids + kActive, [&](int32_t e) { return e >= held.begin && e < held.end(); }))
          continue;
        ++rows[static_cast<size_t>(home)], ++rows[static_cast<size_t>(owner)];  // there, and an answer back
      }
    }
  }
  for (int r = 0; r < ranks; ++r)
    EXPECT_EQ(sent[static_cast<size_t>(r)], rows[static_cast<size_t>(r)] * kHidden * 4) << "rank " << r;
}

TEST(ExpertDispatch, GroupsWithTokensOfTheirOwn) {
  for (bool skewed : {false, true}) {
    check_groups(1, {8, 5}, skewed);
    check_groups(1, {12, 1}, skewed);  // the second has none
    check_groups(1, {4, 1, 5, 3}, skewed);
    check_groups(2, {9, 4}, skewed);
    check_groups(3, {1, 12}, skewed);
  }
}

TEST(ExpertDispatch, SameSumsAndNothingSentTwice) {
  for (int ranks : {2, 3, 4, 7})
    for (bool skewed : {false, true}) check(ranks, skewed);
}

}  // namespace
}  // namespace tessera
