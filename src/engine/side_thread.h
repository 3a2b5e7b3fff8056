// A thread beside the engine's, for what can be done while the device works: masks of constrained samples. Used by one
// thread.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

namespace tessera {

class SideThread {
 public:
  SideThread() = default;
  ~SideThread();
  SideThread(const SideThread&) = delete;

  // Runs the job beside the caller, in a thread that the first call starts. REQUIRES that wait() followed the last one;
  // the job does not throw.
  void begin(std::function<void()> job);
  // Returns when the job has ended; at once when there is none.
  void wait();

 private:
  void loop();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::function<void()> job_;  // null: none
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace tessera
