// RankLoss: whether a rank of the run was lost, in one line, and whom to tell. Thread-safe; the first loss counts.
#pragma once

#include <functional>
#include <mutex>
#include <string>

#include "core/error.h"

namespace tessera {

class RankLoss {
 public:
  // False when a loss was known already.
  bool set(int rank, int size, std::string_view cause) {
    std::function<void(const std::string&)> told;
    std::string line;
    {
      std::lock_guard lock(mutex_);
      if (!line_.empty()) return false;
      line_ = line = fmt::format("rank {} of {}: {}", rank, size, cause);
      told = told_;
    }
    if (told) told(line);
    return true;
  }
  std::string line() const {
    std::lock_guard lock(mutex_);
    return line_;
  }
  void check() const {
    if (std::string now = line(); !now.empty()) fail(ErrorCode::kIo, "{}", now);
  }
  void on_loss(std::function<void(const std::string&)> told) {
    std::string now;
    {
      std::lock_guard lock(mutex_);
      told_ = told;
      now = line_;
    }
    if (!now.empty() && told) told(now);
  }

 private:
  mutable std::mutex mutex_;
  std::string line_;
  std::function<void(const std::string&)> told_;
};

}  // namespace tessera
