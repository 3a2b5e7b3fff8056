// Every value of every weight is held by exactly one rank of those that split it.
#include "parallel/sharding.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "core/error.h"

namespace tessera {
namespace {

TEST(Share, FirstPartsGetWhatIsLeftOver) {
  std::vector<int64_t> blocks;
  for (int r = 0; r < 4; ++r) blocks.push_back(share(2880, 4, r, 32).count / 32);
  EXPECT_EQ(blocks, (std::vector<int64_t>{23, 23, 22, 22}));
  EXPECT_EQ(share(2, 3, 2), (Range{2, 0}));
}

TEST(Share, HeadsStayWithTheirKvHead) {
  // 64 query heads, 8 kv heads over 3 ranks: 3 + 3 + 2 groups of 8.
  EXPECT_EQ(share_heads(64, 8, 3, 0).query, (Range{0, 24}));
  EXPECT_EQ(share_heads(64, 8, 3, 2).kv, (Range{6, 2}));
  // 16 ranks: each kv head on two ranks.
  EXPECT_EQ(share_heads(64, 8, 16, 5).kv, (Range{2, 1}));
  EXPECT_EQ(share_heads(64, 8, 16, 5).query, (Range{20, 4}));
}

TEST(Share, AnyNumberOfPartsCoversTheHeads) {
  for (int64_t kv : {1, 2, 3, 8}) {
    for (int64_t group : {1, 2, 5, 8}) {
      for (int64_t parts = 1; parts <= kv * group; ++parts) {
        int64_t next = 0;
        for (int64_t i = 0; i < parts; ++i) {
          const HeadShare s = share_heads(kv * group, kv, parts, i);
          EXPECT_EQ(s.query.begin, next);
          EXPECT_GE(s.query.count, 1);
          next = s.query.end();
          EXPECT_LE(s.kv.begin * group, s.query.begin);
          EXPECT_GE(s.kv.end() * group, s.query.end());
          EXPECT_EQ(s.query.count % s.kv.count, 0);
        }
        EXPECT_EQ(next, kv * group);
      }
    }
  }
}

TEST(InnerShare, WholeBlocksAndNoneForSome) {
  const Mesh mxfp4{.tensor = 3, .unit = 64, .least_unit = 32};
  EXPECT_EQ(mxfp4.inner_share(64, 3, 0).count, 32);
  EXPECT_EQ(mxfp4.inner_share(64, 3, 2).count, 0);
  EXPECT_EQ(mxfp4.inner_share(2880, 2, 0).count, 23 * 64);
  const Mesh plain{.tensor = 3, .unit = 64};
  EXPECT_EQ(plain.inner_share(64, 3, 0).count, 32);  // by 16
  EXPECT_EQ(plain.inner_share(45, 2, 0).count, 23);
}

struct Model {
  Tensor tensors[8];
  Weight weights[16];
  WeightPlan plan;
  Model(int64_t kv, int64_t group, int64_t dim, int64_t hidden, int64_t inner, int64_t experts, int64_t vocabulary) {
    const int64_t heads = kv * group;
    plan.table(weights[0], "embed", vocabulary, hidden);
    plan.set_heads({heads, kv, dim});
    plan.matrix(weights[1], "q", heads * dim, hidden, Split::kQueryHeads);
    plan.matrix(weights[2], "k", kv * dim, hidden, Split::kKvHeads);
    plan.matrix(weights[3], "o", hidden, heads * dim, Split::kHeadCols);
    plan.vector(tensors[0], "q_bias", heads * dim, Split::kQueryHeads);
    plan.vector(tensors[1], "o_bias", hidden, Split::kOnce);
    plan.vector(tensors[2], "sinks", heads, Split::kQueryHeads);
    plan.vector(tensors[3], "norm", hidden);
    plan.experts(weights[4], "gate_up", experts, 2 * inner, hidden, ExpertInner::kPairs);
    plan.expert_vectors(tensors[4], "gate_up_bias", experts, 2 * inner, ExpertInner::kPairs);
    plan.experts(weights[5], "down", experts, hidden, inner, ExpertInner::kColumns);
    plan.expert_vectors(tensors[5], "down_bias", experts, hidden, ExpertInner::kOnce);
    plan.expert_list(weights[6], "list", {"gate", "up"}, experts, 2 * inner, hidden);
    plan.expert_list(weights[7], "list", {"down"}, experts, hidden, inner);
    plan.matrix(weights[8], "gate", inner, hidden, Split::kInnerRows);
    plan.matrix(weights[9], "down", hidden, inner, Split::kInnerCols);
    plan.matrix(weights[10], "head", vocabulary, hidden, Split::kVocabulary);
  }
};

// How many ranks hold each value.
void expect_covered(const WeightRow& row, const Mesh& mesh) {
  const RowSlice whole = whole_of(row);
  const int64_t e = whole.experts.count, n = whole.rows.count, k = whole.columns.count;
  std::vector<int> holders(static_cast<size_t>(e * n * k));
  int64_t sum = 0;
  for (int rank = 0; rank < mesh.ranks(); ++rank) {
    const RowSlice s = slice_of(row, mesh, rank);
    if (!s.held) continue;
    EXPECT_EQ(slice_shape(row, s).numel(), s.numel());
    sum += s.numel();
    for (int64_t x = s.experts.begin; x < s.experts.end(); ++x)
      for (Range rows : {s.rows, s.more_rows})
        for (int64_t y = rows.begin; y < rows.end(); ++y)
          for (int64_t z = s.columns.begin; z < s.columns.end(); ++z)
            ++holders[static_cast<size_t>((x * n + y) * k + z)];
  }
  const bool many = row.split == Split::kReplicated || row.split == Split::kKvHeads;
  const bool by_all = row.split == Split::kExperts || row.split == Split::kVocabulary;
  const int want = row.split == Split::kReplicated ? mesh.ranks() : by_all ? 1 : mesh.replicas();
  for (int h : holders) {
    if (row.split == Split::kKvHeads) {
      EXPECT_GE(h, want);
    } else {
      ASSERT_EQ(h, want) << row.name;
    }
  }
  if (!many) EXPECT_EQ(sum, e * n * k * want);
}

TEST(Slices, CoverEveryWeightExactlyOnce) {
  std::mt19937 random(7);
  auto draw = [&](int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(random); };
  int tried = 0;
  for (int i = 0; i < 150; ++i) {
    Model model(draw(1, 4), draw(1, 4), 2 * draw(1, 2), draw(1, 9), 32 * draw(1, 3), draw(1, 7), draw(9, 24));
    const int small = static_cast<int>(draw(1, 4)), many = small * static_cast<int>(draw(1, 4));
    Mesh mesh{.tensor = small, .expert = many};
    if (i % 2 == 0) std::swap(mesh.tensor, mesh.expert);
    if (i % 3 == 0) mesh.unit = 64, mesh.least_unit = 32;
    if (!why_impossible(mesh, mesh_demand(model.plan)).empty()) continue;
    ++tried;
    SCOPED_TRACE(testing::Message() << "tp " << mesh.tensor << " ep " << mesh.expert << " case " << i);
    for (const WeightRow& row : model.plan.rows()) expect_covered(row, mesh);
  }
  EXPECT_GT(tried, 40);
}

TEST(Slices, GatesMeetTheirUps) {
  Model model(2, 2, 2, 4, 96, 4, 16);
  for (int rank = 0; rank < 2; ++rank) {
    const Mesh mesh{.tensor = 2, .unit = 32, .least_unit = 32};
    std::map<std::string, RowSlice> slices;
    for (const WeightRow& row : model.plan.rows()) slices[row.name + row.shape.str()] = slice_of(row, mesh, rank);
    const Range inner = slices["down[4, 4, 96]"].columns;
    EXPECT_EQ(slices["gate_up[4, 192, 4]"].rows, (Range{2 * inner.begin, 2 * inner.count}));
    EXPECT_EQ(slices["list[4, 192, 4]"].rows, inner);
    EXPECT_EQ(slices["list[4, 192, 4]"].more_rows, (Range{96 + inner.begin, inner.count}));
    EXPECT_EQ(slices["gate_up_bias[4, 192]"].rows, (Range{2 * inner.begin, 2 * inner.count}));
  }
}

TEST(Mesh, RefusesWhatIsImpossibleAndNamesTheNearest) {
  Model model(8, 8, 2, 4, 64, 32, 64);
  EXPECT_EQ(why_impossible({.tensor = 64, .expert = 32}, mesh_demand(model.plan)), "");
  try {
    check_mesh({.tensor = 65}, model.plan);
    FAIL();
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(),
                 "--tp 65 is more than the 64 query heads; the nearest possible: --tp 64 --ep 1, --tp 64 --ep "
                 "2, --tp 64 --ep 4");
  }
  EXPECT_THROW(check_mesh({.tensor = 2, .expert = 33}, model.plan), Error);
  EXPECT_THROW(check_mesh({.tensor = 4, .expert = 6}, model.plan), Error);
  EXPECT_NO_THROW(check_mesh({.tensor = 3, .expert = 6}, model.plan));
}

}  // namespace
}  // namespace tessera
