#include "api/text_stream.h"

#include <algorithm>
#include <utility>

namespace tessera {

std::string TextStream::push(std::string_view piece) {
  if (stopped_) return {};
  held_ += piece;
  if (stop_.empty()) return std::exchange(held_, {});
  size_t cut = std::string::npos;
  for (const std::string& s : stop_) {
    if (const size_t at = held_.find(s); at < cut) cut = at, found_ = s;
  }
  if (cut != std::string::npos) {
    stopped_ = true;
    held_.resize(cut);
    return std::exchange(held_, {});
  }
  // The longest tail that is the beginning of a stop string stays.
  size_t keep = 0;
  for (const std::string& s : stop_) {
    for (size_t n = std::min(s.size() - 1, held_.size()); n > keep; --n) {
      if (std::string_view(held_).substr(held_.size() - n) == std::string_view(s).substr(0, n)) {
        keep = n;
        break;
      }
    }
  }
  std::string out = held_.substr(0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return out;
}

std::string TextStream::finish() {
  return stopped_ ? std::string() : std::exchange(held_, {});
}

}  // namespace tessera
