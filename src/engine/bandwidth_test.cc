#include "engine/bandwidth.h"

#include <gtest/gtest.h>

namespace tessera {
namespace {

TEST(HostBandwidth, IsOfAtMostTheBytesAskedFor) {
  ThreadPool pool(2);
  const HostBandwidth little = measure_host_bandwidth(pool, int64_t{4} << 20);
  EXPECT_EQ(little.bytes, int64_t{4} << 20);
  EXPECT_GT(little.median, 0);
  EXPECT_GE(little.best, little.median);
  EXPECT_EQ(measure_host_bandwidth(pool, 1).bytes, int64_t{256} << 10);
}

TEST(HostBandwidth, EndsWhereMoreIsAskedForThanThereIsTimeToTouch) {
  for (int threads : {1, 2}) {
    ThreadPool pool(threads);
    const HostBandwidth much = measure_host_bandwidth(pool, int64_t{1} << 36);
    EXPECT_GE(much.bytes, int64_t{16} << 20);
    EXPECT_LT(much.bytes, int64_t{1} << 35);
    EXPECT_GT(much.median, 0);
  }
}

}  // namespace
}  // namespace tessera
