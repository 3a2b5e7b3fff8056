// How much of a load is done, told to whoever waits for it.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <mutex>

namespace tessera {

// Bytes done, of a total that does not change. What it throws ends the load.
using LoadProgressCallback = std::function<void(int64_t done, int64_t total)>;

// Calls back at most about 20 times a second, from whichever thread counts but never from two at once, and at the end.
// Thread-safe.
class LoadProgress {
 public:
  // Without a callback, or with nothing to do, nothing happens. The callback must outlive this.
  LoadProgress(const LoadProgressCallback& callback, int64_t total) : callback_(callback), total_(total) {}
  LoadProgress(LoadProgressCallback&&, int64_t) = delete;
  LoadProgress(const LoadProgress&) = delete;
  void add(int64_t bytes);
  void finish();  // whatever was counted

 private:
  const LoadProgressCallback& callback_;
  const int64_t total_;
  std::atomic<int64_t> done_{0};
  std::mutex mutex_;
  std::chrono::steady_clock::time_point called_{};
};

}  // namespace tessera
