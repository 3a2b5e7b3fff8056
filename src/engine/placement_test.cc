#include "engine/placement.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "loading/checkpoint.h"
#include "loading/test_plan.h"
#include "quant/mxfp4.h"

namespace tessera {
namespace {

constexpr int64_t kLane = 2 * kUploadBlockBytes;

TEST(Placement, LanesStayWithinTheirShare) {
  for (int64_t bytes : {int64_t{1}, int64_t{20} << 20, int64_t{1} << 30, int64_t{13'761'000'000}, int64_t{65} << 30}) {
    for (int64_t threads : {1, 2, 8, 64, 256}) {
      const int64_t staging = count_lanes(threads, bytes, true) * kLane;
      EXPECT_LE(staging, std::max(kLane, bytes * 15 / 1000)) << bytes;
      EXPECT_GE(staging, kLane);
      EXPECT_EQ(count_lanes(threads, bytes, false), std::min<int64_t>(threads, 16));
    }
  }
  EXPECT_EQ(count_lanes(32, 13'761'000'000, true), 16);
}

// On a GPU.
class OnGpu : public testing::Test {
 protected:
  void SetUp() override {
    if (cuda_devices(nullptr).empty()) GTEST_SKIP() << "no GPU";
    context_ = make_context("cuda");
  }
  std::string fetch(const Tensor& t) {
    std::string out(static_cast<size_t>(t.bytes()), '\0');
    context_->to_host(out.data(), t.data, t.bytes());
    context_->synchronize();
    return out;
  }
  static std::string bytes_of(const Tensor& t) { return {t.as<char>(), static_cast<size_t>(t.bytes())}; }

  std::unique_ptr<DeviceContext> context_;
  ThreadPool pool_{4};
};

using PlacementOnGpu = OnGpu;

struct HostExperts {
  HostExperts(int64_t experts, int64_t n, int64_t k, std::mt19937& random)
      : codes(static_cast<size_t>(experts * n * k / 2)), scales(static_cast<size_t>(experts * n * k / 32)) {
    for (uint8_t& c : codes) c = static_cast<uint8_t>(random());
    for (size_t i = 0; i < scales.size(); ++i) scales[i] = static_cast<uint8_t>(i < 255 ? i : random() % 255);
    weight = {.format = WeightFormat::kMxfp4,
              .values = {codes.data(), {experts, n, k / 32, 16}, DType::kU8, {}},
              .scales = {scales.data(), {experts, n, k / 32}, DType::kU8, {}},
              .experts = experts,
              .n = n,
              .k = k};
  }
  std::vector<uint8_t> codes, scales;
  Weight weight;
};

// Shapes that are no whole number of anything, and one of several pieces; every scale, down to subnormal results and up
// to infinite ones.
TEST_F(PlacementOnGpu, ExpandedMxfp4IsTheHostsBitForBit) {
  std::mt19937 random(7);
  const int64_t shapes[][3] = {{1, 1, 32}, {3, 5, 96}, {2, 33, 2880}, {5, 7, 544}, {1, 257, 32}, {2, 5760, 2880}};
  for (const auto& [experts, n, k] : shapes) {
    HostExperts host(experts, n, k, random);
    Weight target = host.weight;
    WeightPlan plan;
    plan.experts(target, "e", experts, n, k);
    PlacementReport report;
    const Arena arena = place_weights(
        plan, {.expand = true}, *context_, pool_,
        [](const void* from, int64_t bytes, char* to) { std::memcpy(to, from, static_cast<size_t>(bytes)); }, &report);
    ASSERT_EQ(target.format, WeightFormat::kPlain);
    ASSERT_EQ(target.values.shape, (Shape{experts, n, k}));
    std::vector<uint16_t> expected(static_cast<size_t>(experts * n * k));
    mxfp4_dequantize_row(host.codes.data(), host.scales.data(), experts * n * k, expected.data());
    const std::string got = fetch(target.values);
    ASSERT_EQ(got.size(), expected.size() * 2);
    EXPECT_EQ(std::memcmp(got.data(), expected.data(), got.size()), 0) << experts << " x " << n << " x " << k;
    EXPECT_EQ(report.bytes, host.weight.bytes());
    EXPECT_LE(report.staging_bytes, std::max(kLane, report.device_bytes / 50));
  }
}

// A model's shards, expanded there and here.
TEST_F(PlacementOnGpu, ExpandedShardsAreTheHosts) {
  const std::string folder = TESSERA_SOURCE_DIR "/models/glossary";
  for (const Mesh& mesh : {Mesh{}, Mesh{.expert = 2}, Mesh{.tensor = 2, .unit = 32, .least_unit = 32},
                           Mesh{.tensor = 4, .expert = 2, .unit = 32, .least_unit = 32}}) {
    for (int rank = 0; rank < mesh.ranks(); ++rank) {
      LoadSettings settings{.dequantize = true, .mesh = &mesh, .rank = rank};
      Checkpoint here = Checkpoint::open(folder);
      GptOssPlan expected(here.config());
      here.load(expected.plan, settings, pool_);
      settings.deferred = true;
      Checkpoint there = Checkpoint::open(folder);
      GptOssPlan got(there.config());
      there.load(got.plan, settings, pool_);
      const Arena arena =
          place_weights(got.plan, {.expand = true}, *context_, pool_,
                        [&](const void* from, int64_t bytes, char* to) { there.read(from, bytes, to); });
      for (const auto& [name, weight] : expected.weights) {
        const Tensor& values = got.weights[name].values;
        ASSERT_EQ(values.shape, weight.values.shape) << name;
        EXPECT_EQ(fetch(values), bytes_of(weight.values)) << name << ", rank " << rank << " of " << mesh.ranks();
      }
    }
  }
}

}  // namespace
}  // namespace tessera
