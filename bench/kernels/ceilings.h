// A measured ceiling of this machine, beside engine/bandwidth.h's: the denominators of every kernel figure.
#pragma once

#include <chrono>

#include "core/thread_pool.h"

namespace tessera::bench {

inline double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// F32 fused multiply-adds per second of all threads, with the widest vectors of the machine, best of `repeats`.
double fma_rate(ThreadPool& pool, int repeats);

}  // namespace tessera::bench
