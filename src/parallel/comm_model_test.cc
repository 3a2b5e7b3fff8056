// Bytes a rank sends, against loops over random routings; and what predictions must obey.
#include "parallel/comm_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <set>

#include "parallel/sharding.h"

namespace tessera {
namespace {

TEST(GroupsReached, IsTheMeanOverAllChoices) {
  EXPECT_DOUBLE_EQ(groups_reached(8, 1, 2), 1);
  EXPECT_DOUBLE_EQ(groups_reached(8, 8, 2), 2);
  EXPECT_DOUBLE_EQ(groups_reached(8, 4, 2), 4 * (1 - 15.0 / 28));  // C(6,2) of C(8,2) miss one
  EXPECT_DOUBLE_EQ(groups_reached(3, 2, 1), 1);                    // of 2 and 1
  EXPECT_DOUBLE_EQ(groups_reached(4, 2, 4), 2);
}

// Rows on their way to experts and back, in bytes a rank and token, counted.
double sent_for_experts(const Mesh& mesh, const TrafficShape& m) {
  std::mt19937 random(4);
  std::vector<int64_t> ids(static_cast<size_t>(m.experts));
  std::iota(ids.begin(), ids.end(), 0);
  const int ranks = mesh.ranks(), sharing = mesh.split_tokens ? mesh.tensor : ranks;
  constexpr int kTokens = 20000;
  int64_t rows = 0;
  for (int token = 0; token < kTokens; ++token) {
    std::shuffle(ids.begin(), ids.end(), random);
    const int home = token % ranks, group = home / sharing;
    std::set<int> reached;
    for (int r = 0; r < ranks; ++r) {
      const Range held = expert_share(m.experts, mesh, r);
      if (std::any_of(ids.begin(), ids.begin() + m.active,
                      [&](int64_t e) { return e >= held.begin && e < held.end(); }))
        reached.insert(r);
    }
    for (int r : reached) {
      const bool in_group = r / sharing == group;
      if (m.gpus) {
        rows += !in_group + sharing - in_group;  // to it, and its answer to all that have the token
      } else {
        rows += 2 * (r != home);
      }
    }
  }
  return static_cast<double>(rows) / kTokens / ranks * m.row_bytes;
}

TEST(TokenTraffic, ExpertsAreReachedAsInALoop) {
  for (bool gpus : {false, true}) {
    for (const Mesh& mesh :
         {Mesh{.tensor = 1, .expert = 2, .split_tokens = true}, Mesh{.tensor = 1, .expert = 4, .split_tokens = true},
          Mesh{.tensor = 2, .expert = 4, .split_tokens = true}, Mesh{.tensor = 4, .expert = 4},
          Mesh{.tensor = 4, .expert = 2}}) {
      if (gpus && !mesh.split_tokens) continue;  // sums
      const TrafficShape m{
          .row_bytes = 100, .experts = 8, .active = 2, .vocabulary = 64, .dispatch = true, .gpus = gpus};
      const double counted = sent_for_experts(mesh, m);
      EXPECT_NEAR(token_traffic(mesh, m).experts, counted, 0.02 * counted)
          << "tp " << mesh.tensor << " ep " << mesh.expert << " gpus " << gpus;
    }
  }
}

TEST(TokenTraffic, OfOwnSequencesAttentionNeedsNoSum) {
  const TrafficShape m{.row_bytes = 5760, .experts = 32, .active = 4, .vocabulary = 201088, .dispatch = true};
  const TokenTraffic own = token_traffic({.tensor = 1, .expert = 2, .split_tokens = true}, m);
  EXPECT_EQ(own.attention, 0);
  EXPECT_EQ(own.shared, 0);
  EXPECT_EQ(own.routing, 16);  // 4 ids and weights to the other of two
  EXPECT_EQ(own.rows, 2880);
  const TokenTraffic split = token_traffic({.tensor = 2, .expert = 2}, m);
  EXPECT_EQ(split.attention, 5760);
  EXPECT_EQ(split.rows, 0);
  EXPECT_EQ(split.routing, 0);
  const TokenTraffic alone = token_traffic({}, m);
  EXPECT_EQ(alone.attention + alone.experts + alone.routing + alone.shared + alone.rows + alone.logits, 0);
}

// A token a rank there and back, and 32, as they were measured.
TEST(Prediction, DispatchIsWhatWasMeasured) {
  const LinkFigures& peer = link_figures()[1];
  EXPECT_NEAR(dispatch_seconds(peer, 2 * 5760), 7.9e-6, 0.2e-6);
  EXPECT_NEAR(dispatch_seconds(peer, 2 * 32 * 5760), 9.4e-6, 1e-6);
  const StepDemand once{.layers = 24, .dispatch = true, .dispatched_bytes = 11520};
  EXPECT_DOUBLE_EQ(predict_step(h100_figures(), peer, 2, once).communication, 24 * dispatch_seconds(peer, 11520));
}

}  // namespace
}  // namespace tessera
