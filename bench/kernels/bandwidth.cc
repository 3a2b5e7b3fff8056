// Prints the read bandwidth and F32 FMA rate of this machine, for 1 thread and for all.
#include "bench/kernels/bandwidth.h"

#include <fmt/format.h>

int main() {
  using namespace tessera;
  int threads = ThreadPool().size();
  for (int n : {1, threads}) {
    ThreadPool pool(n);
    fmt::print("{} thread{}: read {:.1f} GB/s, FMA {:.0f} GFLOP/s\n", n, n == 1 ? "" : "s",
               bench::read_bandwidth(pool, int64_t{1} << 30, 7) / 1e9, 2 * bench::fma_rate(pool, 7) / 1e9);
    if (threads == 1) break;
  }
}
