// A bar on standard error with bytes, rate and time left, drawn only when that is a terminal. Used by one thread
// at a time.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace tessera::cli {

// "1.23 GB"; decimal units, as disks and networks are sold.
std::string bytes_text(int64_t bytes);

class ByteProgress {
 public:
  using Clock = std::chrono::steady_clock;

  // Nothing is drawn in the first `quiet`.
  explicit ByteProgress(std::string what, Clock::duration quiet = {});
  ~ByteProgress();  // wipes the bar
  ByteProgress(const ByteProgress&) = delete;
  // `moved`: bytes that count for the rate, a part of `done`. At the end the bar is wiped.
  void update(int64_t done, int64_t total, int64_t moved);

 private:
  void wipe();

  std::string what_;
  Clock::duration quiet_;
  bool shown_;
  Clock::time_point start_ = Clock::now(), drawn_{};
};

}  // namespace tessera::cli
