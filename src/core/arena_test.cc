#include "core/arena.h"

#include <cstring>

#include <gtest/gtest.h>

namespace tessera {
namespace {

TEST(Arena, AlignedDisjointAndReusable) {
  Arena arena(1 << 16);
  Tensor a = arena.tensor(DType::kF32, {3, 5}), b = arena.tensor(DType::kBF16, {7});
  EXPECT_EQ(reinterpret_cast<uintptr_t>(a.data) % 64, 0u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(b.data) % 64, 0u);
  EXPECT_GE(b.as<char>() - a.as<char>(), a.bytes());
  const int64_t mark = arena.used();
  void* c = arena.allocate(100);
  arena.rewind(mark);
  EXPECT_EQ(arena.allocate(100), c);
  EXPECT_GE(arena.peak(), mark + 100);
}

TEST(Arena, MovesOwnership) {
  Arena a(4096);
  a.tensor(DType::kF32, {16}).f32()[3] = 7;
  Arena b = std::move(a);
  b = Arena(8192);
  EXPECT_EQ(b.used(), 0);
}

TEST(Arena, MeasuringLearnsThePeak) {
  Arena arena = Arena::measuring();
  EXPECT_TRUE(arena.tensor(DType::kF32, {int64_t{1} << 40}).defined());
  EXPECT_EQ(arena.peak(), int64_t{1} << 42);
}

TEST(Arena, RefusesWhatTheSystemCannotGive) {
  EXPECT_THROW(Arena(int64_t{1} << 55), Error);
}

TEST(DeviceContext, NamesAreChecked) {
  EXPECT_EQ(make_context("cpu")->device().type, DeviceType::kCpu);
  EXPECT_THROW(make_context("cuda:x"), Error);
  EXPECT_THROW(make_context("cuda:1x"), Error);
  EXPECT_THROW(make_context("gpu"), Error);
  std::string why;
  if (cuda_devices(&why).empty()) {
    EXPECT_FALSE(why.empty());
    EXPECT_THROW(make_context("cuda"), Error);
    EXPECT_EQ(make_context("auto")->device().type, DeviceType::kCpu);
  }
}

TEST(Arena, ScatteredTakesABlockForEachAllocation) {
  std::unique_ptr<DeviceContext> cpu = make_cpu_context();
  Arena arena = Arena::scattered(*cpu);
  char* first = static_cast<char*>(arena.allocate(100));
  char* second = static_cast<char*>(arena.allocate(0));
  std::memset(first, 1, 100);
  EXPECT_NE(second, nullptr);
  EXPECT_EQ(arena.allocations(), 2);
  Arena moved = std::move(arena);
  EXPECT_EQ(moved.allocations(), 2);
  EXPECT_EQ(first[99], 1);
}

}  // namespace
}  // namespace tessera
