#include "cli/byte_progress.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "cli/terminal.h"

namespace tessera::cli {

std::string bytes_text(int64_t bytes) {
  auto n = static_cast<double>(bytes);
  if (n < 1e3) return fmt::format("{} B", bytes);
  if (n < 1e6) return fmt::format("{:.1f} kB", n / 1e3);
  return n < 1e9 ? fmt::format("{:.1f} MB", n / 1e6) : fmt::format("{:.2f} GB", n / 1e9);
}

ByteProgress::ByteProgress(std::string what, Clock::duration quiet)
    : what_(std::move(what)), quiet_(quiet), shown_(stderr_is_terminal()) {}

ByteProgress::~ByteProgress() {
  wipe();
}

void ByteProgress::wipe() {
  if (!shown_ || drawn_ == Clock::time_point{}) return;
  std::fputs("\r\x1b[K", stderr);
  std::fflush(stderr);
  drawn_ = {};
}

void ByteProgress::update(int64_t done, int64_t total, int64_t moved) {
  const Clock::time_point now = Clock::now();
  if (done >= total) return wipe();
  if (!shown_ || now - start_ < quiet_ || now - drawn_ < std::chrono::milliseconds(100)) return;
  drawn_ = now;
  constexpr int64_t kWidth = 24;
  done = std::min(done, total);
  const auto filled =
      static_cast<size_t>(static_cast<double>(kWidth) * static_cast<double>(done) / static_cast<double>(total));
  const double rate = static_cast<double>(moved) / std::max(1e-3, std::chrono::duration<double>(now - start_).count());
  std::string left;
  if (moved > 0 && rate > 0) {
    const auto seconds = static_cast<int64_t>(static_cast<double>(total - done) / rate);
    left = fmt::format(", {}:{:02} left", seconds / 60, seconds % 60);
  }
  fmt::print(stderr, "\r{} [{}{}] {} of {}, {}/s{}\x1b[K", what_, std::string(filled, '#'),
             std::string(kWidth - filled, '.'), bytes_text(done), bytes_text(total),
             bytes_text(static_cast<int64_t>(rate)), left);
  std::fflush(stderr);
}

}  // namespace tessera::cli
