#include "core/memory_limit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"

namespace tessera {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

TEST(MemoryLimit, RefusesWhatGoesBeyondAndGetsBackWhatIsReleased) {
  std::unique_ptr<DeviceContext> context = limit_memory(make_cpu_context(), 10 * kMiB, kMiB);
  EXPECT_EQ(context->info().total_bytes, 10 * kMiB);
  EXPECT_EQ(context->info().free_bytes, 9 * kMiB);
  void* five = context->allocate(5 * kMiB);
  EXPECT_EQ(context->info().free_bytes, 4 * kMiB);
  try {
    context->allocate(4 * kMiB + 1);
    FAIL() << "more than the limit was given";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kOutOfMemory);
    EXPECT_THAT(e.what(), testing::HasSubstr("--device-memory"));
  }
  EXPECT_EQ(context->info().free_bytes, 4 * kMiB) << "what was refused counts for nothing";
  void* four = context->allocate(4 * kMiB);
  EXPECT_EQ(context->info().free_bytes, 0);
  context->release(five);
  EXPECT_EQ(context->info().free_bytes, 5 * kMiB);
  context->release(four);
  EXPECT_EQ(context->info().free_bytes, 9 * kMiB);
}

TEST(MemoryLimit, IsNotLessThanTheDriver) {
  EXPECT_THROW(limit_memory(make_cpu_context(), kMiB, kMiB), Error);
}

}  // namespace
}  // namespace tessera
