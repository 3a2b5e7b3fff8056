#include "core/device_context.h"

#include <gtest/gtest.h>

#include <cstring>

namespace tessera {
namespace {

struct Case {
  int64_t bytes;
  int64_t offset;  // of every address
};
// On a GPU up to 8 KiB of aligned words go one way, and all else another.
constexpr Case kCases[] = {{4, 0}, {4, 260}, {6, 0}, {8, 2}, {8192, 0}, {8196, 0}, {8192, 4}};
constexpr int64_t kCount = sizeof kCases / sizeof kCases[0];
constexpr int64_t kRoom = 20480;  // a case's, with unused bytes on both sides
constexpr int kRounds = 2;

class DeviceCopies : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (std::string(GetParam()) != "cpu" && cuda_devices(nullptr).empty()) GTEST_SKIP() << "no GPU";
    context_ = make_context(GetParam());
    for (char*& room : on_device_) room = static_cast<char*>(context_->allocate(kCount * kRoom));
    host_ = static_cast<char*>(context_->allocate_host(2 * kRounds * kCount * kRoom));
    for (int64_t i = 0; i < kRounds * kCount * kRoom; ++i) sent(0)[i] = static_cast<char>(i * 2654435761u >> 13);
    std::memset(received(0), kUntouched, kRounds * kCount * kRoom);
  }
  void TearDown() override {
    if (!context_) return;
    for (char* room : on_device_) context_->release(room);
    context_->release_host(host_);
  }

  char* sent(int round) { return host_ + round * kCount * kRoom; }
  char* received(int round) { return host_ + (kRounds + round) * kCount * kRoom; }

  // A round overwrites on the device what the one before it is about to read there.
  void enqueue() {
    for (int round = 0; round < kRounds; ++round) {
      for (int64_t i = 0; i < kCount; ++i) {
        const int64_t at = i * kRoom + kMargin + kCases[i].offset, bytes = kCases[i].bytes;
        context_->to_device(on_device_[0] + at, sent(round) + at, bytes);
        context_->copy_on_device(on_device_[1] + at, on_device_[0] + at, bytes);
        context_->to_host(received(round) + at, on_device_[1] + at, bytes);
      }
    }
  }

  void expect_all() {
    for (int round = 0; round < kRounds; ++round) {
      for (int64_t i = 0; i < kCount; ++i) {
        SCOPED_TRACE(testing::Message() << kCases[i].bytes << " bytes at " << kCases[i].offset << ", round " << round);
        const int64_t first = kMargin + kCases[i].offset, end = first + kCases[i].bytes;
        const char *got = received(round) + i * kRoom, *wanted = sent(round) + i * kRoom;
        EXPECT_EQ(std::memcmp(got + first, wanted + first, static_cast<size_t>(kCases[i].bytes)), 0);
        int64_t touched = 0;
        for (int64_t at = 0; at < kRoom; ++at) touched += (at < first || at >= end) && got[at] != kUntouched;
        EXPECT_EQ(touched, 0) << "bytes beside the copy were written";
      }
    }
  }

  static constexpr char kUntouched = 0x5a;
  static constexpr int64_t kMargin = 256;
  std::unique_ptr<DeviceContext> context_;
  char* on_device_[2] = {};
  char* host_ = nullptr;
};

TEST_P(DeviceCopies, FollowOneAnotherInStreamOrder) {
  enqueue();
  context_->synchronize();
  expect_all();
}

TEST_P(DeviceCopies, FollowOneAnotherInAGraph) {
  if (!context_->asynchronous()) GTEST_SKIP() << "nothing is recorded where nothing is asynchronous";
  const std::unique_ptr<DeviceGraph> graph = context_->record([&] { enqueue(); });
  for (int64_t i = 0; i < kRounds * kCount * kRoom; ++i) sent(0)[i] = static_cast<char>(~sent(0)[i]);
  graph->launch();
  context_->synchronize();
  expect_all();
}

INSTANTIATE_TEST_SUITE_P(Devices, DeviceCopies, testing::Values("cpu", "cuda"));

}  // namespace
}  // namespace tessera
