// Measured ceilings of this machine, the denominators of every kernel figure.
#pragma once

#include <chrono>

#include "core/thread_pool.h"

namespace tessera::bench {

inline double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Bytes per second read by all threads of the pool from a buffer of `bytes`, best of `repeats` passes.
double read_bandwidth(ThreadPool& pool, int64_t bytes, int repeats);

// F32 fused multiply-adds per second of all threads, with the widest vectors of the machine, best of `repeats`.
double fma_rate(ThreadPool& pool, int repeats);

}  // namespace tessera::bench
