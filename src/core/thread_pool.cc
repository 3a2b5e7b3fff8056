#include "core/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <string>

#include "core/env.h"
#include "core/error.h"

namespace tessera {

namespace {

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Cores allowed by the affinity mask, cut by a cgroup v2 CPU quota: spinning threads beyond it stall each other.
int usable_cores() {
  cpu_set_t set;
  int cores = static_cast<int>(std::thread::hardware_concurrency());
  if (sched_getaffinity(0, sizeof set, &set) == 0) cores = CPU_COUNT(&set);
  std::ifstream quota("/sys/fs/cgroup/cpu.max");
  std::string limit;
  double period = 0;
  if (quota >> limit >> period && limit != "max" && period > 0)
    cores = std::min(cores, std::max(1, static_cast<int>(std::stod(limit) / period)));
  return std::max(cores, 1);
}

}  // namespace

int ThreadPool::resolve(int threads) {
  if (threads == 0) threads = static_cast<int>(env_long(Env::kThreads));
  if (threads < 0 || threads > 1024)
    fail(ErrorCode::kInvalidArgument, "{} threads: expected 1 to 1024, or 0 for all cores", threads);
  return threads == 0 ? usable_cores() : threads;
}

ThreadPool::ThreadPool(int threads, int spins) : spins_(spins) {
  threads = resolve(threads);
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_relaxed);
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  for (std::thread& t : workers_) t.join();
}

void ThreadPool::drain(int thread) {
  for (;;) {
    int64_t begin = next_.fetch_add(grain_, std::memory_order_relaxed);
    if (begin >= n_) return;
    task_(context_, begin, std::min(begin + grain_, n_), thread);
  }
}

void ThreadPool::run(int64_t n, int64_t grain, Task task, void* context) {
  if (n <= 0) return;
  grain = std::max<int64_t>(grain, 1);
  if (workers_.empty() || n <= grain) {
    task(context, 0, n, 0);
    return;
  }
  task_ = task;
  context_ = context;
  n_ = n;
  grain_ = grain;
  next_.store(0, std::memory_order_relaxed);
  running_.store(static_cast<int32_t>(workers_.size()), std::memory_order_relaxed);
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  drain(0);
  for (int spins = 0;; ++spins) {
    int32_t left = running_.load(std::memory_order_acquire);
    if (left == 0) return;
    if (spins < spins_) {
      pause();
    } else {
      running_.wait(left, std::memory_order_acquire);
    }
  }
}

void ThreadPool::work(int thread) {
  uint32_t seen = 0;
  for (;;) {
    for (int spins = 0; epoch_.load(std::memory_order_acquire) == seen; ++spins) {
      if (spins < spins_) {
        pause();
      } else {
        epoch_.wait(seen, std::memory_order_acquire);
      }
    }
    ++seen;
    if (stop_.load(std::memory_order_relaxed)) return;
    drain(thread);
    if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) running_.notify_one();
  }
}

}  // namespace tessera
