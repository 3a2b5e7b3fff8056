// ThreadPool::parallel_for for work that may throw: the error of the lowest index is rethrown on the calling thread
// once all ranges are done (a range that failed, and those not begun after it, are skipped).
#pragma once

#include <atomic>
#include <exception>
#include <mutex>

#include "core/thread_pool.h"

namespace tessera {

// Calls f(i) for i in [0, n).
template <class F>
void parallel_tasks(ThreadPool& pool, int64_t n, F&& f) {
  std::mutex mutex;
  std::exception_ptr error;
  std::atomic<int64_t> failed{n};
  pool.parallel_for(n, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end && i < failed.load(std::memory_order_relaxed); ++i) {
      try {
        f(i);
      } catch (...) {
        std::lock_guard lock(mutex);
        if (i < failed.load()) {
          failed.store(i);
          error = std::current_exception();
        }
      }
    }
  });
  if (error) std::rethrow_exception(error);
}

}  // namespace tessera
