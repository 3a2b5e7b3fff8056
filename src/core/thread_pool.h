// A fixed set of threads that run one parallel region at a time. The calling thread takes part. Workers spin briefly
// after a region, since decode has hundreds of regions a token, then sleep.
//
// Thread-safety: one caller at a time. A task must not throw and must not start a region itself.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

namespace tessera {

class ThreadPool {
 public:
  // About 50 us: longer than the gap between two regions of a decode step, shorter than a scheduler tick.
  static constexpr int kSpins = 4000;
  // threads = 0: the cores this process may use (affinity mask and cgroup quota), or TESSERA_THREADS.
  // `spins`: pauses before a worker sleeps.
  explicit ThreadPool(int threads = 0, int spins = kSpins);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // How many threads that many are: resolves 0.
  static int resolve(int threads);
  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls f(begin, end, thread) over disjoint ranges that cover [0, n). Ranges are handed out in chunks of `grain`, in
  // order, to whichever thread is free; which thread runs a range never changes its result. Returns when all are done.
  template <class F>
  void parallel_for(int64_t n, int64_t grain, F&& f) {
    run(
        n, grain,
        [](void* context, int64_t begin, int64_t end, int thread) {
          (*static_cast<std::remove_reference_t<F>*>(context))(begin, end, thread);
        },
        const_cast<void*>(static_cast<const void*>(&f)));
  }

 private:
  using Task = void (*)(void* context, int64_t begin, int64_t end, int thread);
  void run(int64_t n, int64_t grain, Task task, void* context);
  void work(int thread);
  void drain(int thread);

  std::vector<std::thread> workers_;
  int spins_;
  alignas(64) std::atomic<uint32_t> epoch_{0};
  alignas(64) std::atomic<int64_t> next_{0};
  alignas(64) std::atomic<int32_t> running_{0};
  std::atomic<bool> stop_{false};
  Task task_ = nullptr;
  void* context_ = nullptr;
  int64_t n_ = 0;
  int64_t grain_ = 1;
};

}  // namespace tessera
