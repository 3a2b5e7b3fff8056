#include "loading/load_progress.h"

#include <algorithm>

namespace tessera {

void LoadProgress::add(int64_t bytes) {
  if (!callback_ || total_ == 0) return;
  done_ += bytes;
  std::unique_lock lock(mutex_, std::try_to_lock);
  const auto now = std::chrono::steady_clock::now();
  if (!lock || now - called_ < std::chrono::milliseconds(50)) return;
  called_ = now;
  callback_(std::min(done_.load(), total_), total_);
}

void LoadProgress::finish() {
  if (!callback_ || total_ == 0) return;
  std::lock_guard lock(mutex_);
  callback_(total_, total_);
}

}  // namespace tessera
