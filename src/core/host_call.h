// Work that a device hands to the host in the order of its stream, and what became of it.
#pragma once

#include <exception>
#include <mutex>

namespace tessera {

// Runs on a thread of the driver's: it must not call the device.
class HostCall {
 public:
  virtual ~HostCall() = default;
  virtual void run() = 0;
};

// What host calls threw, for the next one who waits for the device. Thread-safe.
class HostErrors {
 public:
  void run(HostCall& call) noexcept {
    try {
      call.run();
    } catch (...) {
      std::lock_guard lock(mutex_);
      if (!first_) first_ = std::current_exception();
    }
  }
  // Throws the first one, once.
  void rethrow() {
    std::exception_ptr thrown;
    {
      std::lock_guard lock(mutex_);
      std::swap(thrown, first_);
    }
    if (thrown) std::rethrow_exception(thrown);
  }

 private:
  std::mutex mutex_;
  std::exception_ptr first_;
};

}  // namespace tessera
