#include "loading/parallel_tasks.h"

#include <gtest/gtest.h>

#include <stdexcept>
#include <vector>

namespace tessera {
namespace {

TEST(ParallelTasks, RunsEveryIndexOnce) {
  ThreadPool pool(3);
  std::vector<std::atomic<int>> hits(500);
  parallel_tasks(pool, 500, [&](int64_t i) { ++hits[static_cast<size_t>(i)]; });
  for (auto& h : hits) EXPECT_EQ(h, 1);
}

TEST(ParallelTasks, RethrowsTheLowestIndex) {
  for (int threads : {1, 4}) {
    ThreadPool pool(threads);
    for (int round = 0; round < 100; ++round) {
      try {
        parallel_tasks(pool, 200, [](int64_t i) {
          if (i % 50 == 20) throw std::runtime_error(std::to_string(i));
        });
        FAIL() << "nothing was thrown";
      } catch (const std::runtime_error& e) {
        EXPECT_STREQ(e.what(), "20");
      }
    }
  }
}

}  // namespace
}  // namespace tessera
