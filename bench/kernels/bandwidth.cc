// Prints the read bandwidth of main memory and the F32 FMA rate of this machine, for 1 thread and for all.
#include <fmt/format.h>

#include "bench/kernels/ceilings.h"
#include "engine/bandwidth.h"

int main() {
  using namespace tessera;
  int threads = ThreadPool().size();
  for (int n : {1, threads}) {
    ThreadPool pool(n);
    const HostBandwidth read = measure_host_bandwidth(pool);
    fmt::print("{} thread{}: read {:.1f} GB/s (best pass over {} MiB {:.1f}), FMA {:.0f} GFLOP/s\n", n,
               n == 1 ? "" : "s", read.median / 1e9, read.bytes >> 20, read.best / 1e9,
               2 * bench::fma_rate(pool, 7) / 1e9);
    if (threads == 1) break;
  }
}
