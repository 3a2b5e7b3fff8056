#include "loading/load_progress.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <stdexcept>
#include <thread>
#include <vector>

#include "loading/parallel_tasks.h"

namespace tessera {
namespace {

TEST(LoadProgress, ManyThreadsCountOneCallsAtATimeAndTheLastIsAll) {
  std::atomic<int> inside{0};
  std::vector<int64_t> seen;
  const LoadProgressCallback callback = [&](int64_t done, int64_t total) {
    EXPECT_EQ(inside.fetch_add(1), 0);
    EXPECT_EQ(total, 64000);
    seen.push_back(done);
    inside.fetch_sub(1);
  };
  LoadProgress progress(callback, 64000);
  ThreadPool pool(4);
  parallel_tasks(pool, 64, [&](int64_t i) {
    if (i % 16 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(60));
    progress.add(1000);
  });
  progress.finish();
  ASSERT_GE(seen.size(), 2u);
  EXPECT_LE(seen.size(), 8u);  // 64 pieces within some 50 ms each
  EXPECT_TRUE(std::is_sorted(seen.begin(), seen.end()));
  EXPECT_EQ(seen.back(), 64000);
}

TEST(LoadProgress, WithoutACallbackOrWork) {
  const LoadProgressCallback none;
  LoadProgress(none, 10).finish();
  const LoadProgressCallback never = [](int64_t, int64_t) { FAIL(); };
  LoadProgress(never, 0).add(0);
  LoadProgress(never, 0).finish();
}

TEST(LoadProgress, WhatTheCallbackThrowsEndsTheWork) {
  const LoadProgressCallback callback = [](int64_t, int64_t) { throw std::runtime_error("enough"); };
  LoadProgress progress(callback, 100);
  ThreadPool pool(2);
  EXPECT_THROW(parallel_tasks(pool, 100, [&](int64_t) { progress.add(1); }), std::runtime_error);
}

}  // namespace
}  // namespace tessera
