#include "engine/page_swap.h"

#include <gtest/gtest.h>

#include "core/arena.h"

namespace tessera {
namespace {

constexpr int64_t kPages = 5, kPageSize = 4;

class PageMoves : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (std::string(GetParam()) != "cpu" && cuda_devices(nullptr).empty()) GTEST_SKIP() << "no GPU";
    context_ = make_context(GetParam());
    arena_ = Arena(*context_, 1 << 20);
    for (const LayerCache& c : layout_.stores) {
      Shape shape{kPages, c.kv_heads, kPageSize, c.head_dim};
      Tensor k = arena_.tensor(DType::kF32, shape);
      stores_.push_back({k, arena_.tensor(DType::kF32, shape)});
    }
    for (const KvPages& s : stores_)
      for (const Tensor& t : {s.k, s.v})
        for (int32_t page = 0; page < kPages; ++page) write(t, page, mark(t, page));
  }

  float mark(const Tensor& t, int32_t page) const {
    return static_cast<float>(page) + static_cast<float>(t.as<char>() - stores_[0].k.as<char>());
  }
  void write(const Tensor& t, int32_t page, float value) {
    const Tensor rows = t.rows(page, 1);
    std::vector<float> values(static_cast<size_t>(rows.numel()), value);
    values.back() += 0.5f;
    context_->to_device(rows.data, values.data(), rows.bytes());
    context_->synchronize();
  }
  // The page whose content lies in `page`, in the group's layers.
  void expect(const Tensor& t, int32_t page, int32_t content) {
    const Tensor rows = t.rows(page, 1);
    std::vector<float> values(static_cast<size_t>(rows.numel()));
    context_->to_host(values.data(), rows.data, rows.bytes());
    context_->synchronize();
    EXPECT_EQ(values.front(), mark(t, content));
    EXPECT_EQ(values.back(), mark(t, content) + 0.5f);
  }

  // Two groups of two layers over three stores: one is shared by both.
  const CacheLayout layout_ = layout_cache({{{2, 8, 16}, {2, 8, 0}, {2, 8, 16}, {1, 16, 0}}}, false);
  std::unique_ptr<DeviceContext> context_;
  Arena arena_;
  std::vector<KvPages> stores_;
};

// Page 1 goes to the host, is overwritten by page 2 in the same list, and comes back as page 3; its host page then
// takes page 4, which comes back as page 0.
TEST_P(PageMoves, AreMadeInTheirOrder) {
  using enum PageCopy::Way;
  ASSERT_EQ(layout_.groups.size(), 2u);
  ASSERT_EQ(layout_.stores.size(), 3u);
  for (int group : {0, 1}) {
    PageMover mover(*context_, layout_, stores_, 2);
    const PageCopy copies[] = {{group, 1, 1, kToHost},
                               {group, 2, 1, kOnDevice},
                               {group, 1, 3, kToDevice},
                               {group, 4, 1, kToHost},
                               {group, 1, 0, kToDevice}};
    mover.make(copies);
    for (int layer : layout_.groups[static_cast<size_t>(group)].layers) {
      const KvPages& store = stores_[static_cast<size_t>(layout_.store_of_layer[static_cast<size_t>(layer)])];
      for (const Tensor& t : {store.k, store.v}) {
        expect(t, 0, 4);
        expect(t, 1, 2);
        expect(t, 3, 1);
        for (int32_t page : {0, 1, 3}) write(t, page, mark(t, page));
      }
    }
  }
}

TEST_P(PageMoves, OnlyTheGroupsLayersAreTouched) {
  PageMover mover(*context_, layout_, stores_, 0);
  EXPECT_EQ(mover.host_bytes(), 0);
  const PageCopy copy{0, 1, 2};
  mover.make({&copy, 1});
  expect(stores_[0].k, 2, 1);
  expect(stores_[2].k, 2, 2);  // of the other group alone
}

INSTANTIATE_TEST_SUITE_P(Devices, PageMoves, testing::Values("cpu", "cuda"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace tessera
