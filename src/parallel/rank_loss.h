// RankLoss: whether a rank of the run was lost, in one line, and whom to tell. Thread-safe; the first loss counts.
#pragma once

#include <functional>
#include <map>
#include <mutex>
#include <string>

#include "core/error.h"

namespace tessera {

class RankLoss {
 public:
  // False when a loss was known already.
  bool set(int rank, int size, std::string_view cause) {
    {
      std::lock_guard lock(mutex_);
      if (!line_.empty()) return false;
      line_ = fmt::format("rank {} of {}: {}", rank, size, cause);
    }
    std::lock_guard telling(telling_);
    announced_ = true;
    for (const auto& [owner, told] : told_) told(line_);
    return true;
  }
  std::string line() const {
    std::lock_guard lock(mutex_);
    return line_;
  }
  void check() const {
    if (std::string now = line(); !now.empty()) fail(ErrorCode::kIo, "{}", now);
  }
  // As Channel::on_loss().
  void on_loss(const void* owner, std::function<void(const std::string&)> told) {
    std::lock_guard telling(telling_);
    told_.erase(owner);
    if (!told) return;
    if (announced_) return told(line());
    told_.emplace(owner, std::move(told));
  }

 private:
  mutable std::mutex mutex_;
  std::string line_;    // once set, it stays
  std::mutex telling_;  // guards what follows, and is held while they are called
  bool announced_ = false;
  std::map<const void*, std::function<void(const std::string&)>> told_;
};

}  // namespace tessera
