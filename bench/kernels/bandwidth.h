// Measured ceilings of this machine, the denominators of every kernel figure.
#pragma once

#include <chrono>

#include <sys/resource.h>

#include "core/thread_pool.h"

namespace tessera::bench {

inline double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// CPU seconds of the whole process: what a run costs when other programs take turns on the cores.
inline double cpu_seconds_now() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec) + static_cast<double>(usage.ru_utime.tv_usec) * 1e-6;
}

// Bytes per second read by all threads of the pool from a buffer of `bytes`, best of `repeats` passes.
double read_bandwidth(ThreadPool& pool, int64_t bytes, int repeats);

// F32 fused multiply-adds per second of all threads, with the widest vectors of the machine, best of `repeats`.
double fma_rate(ThreadPool& pool, int repeats);

}  // namespace tessera::bench
