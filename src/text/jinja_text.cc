#include "text/jinja_text.h"

#include <algorithm>

namespace tessera::jinja {

void Text::append(std::string_view bytes, uint8_t marks) {
  if (bytes.empty()) return;
  if (bytes_.empty()) {
    marks_ = marks;
    runs_.clear();
  } else if (!runs_.empty() || marks_ != marks) {
    if (runs_.empty()) runs_.push_back({bytes_.size(), marks_});
    if (runs_.back().marks == marks) {
      runs_.back().end += bytes.size();
    } else {
      runs_.push_back({bytes_.size() + bytes.size(), marks});
    }
  }
  bytes_.append(bytes);
}

void Text::append(const Text& other, size_t begin, size_t end) {
  if (begin >= end) return;
  std::string_view bytes = other.bytes_;
  if (other.runs_.empty()) return append(bytes.substr(begin, end - begin), other.marks_);
  for (size_t i = other.run_index(begin); begin < end; ++i) {
    size_t stop = std::min(end, other.runs_[i].end);
    append(bytes.substr(begin, stop - begin), other.runs_[i].marks);
    begin = stop;
  }
}

void Text::add_marks(uint8_t marks) {
  marks_ |= marks;
  std::vector<Run> merged;
  for (const Run& run : runs_) {
    uint8_t now = run.marks | marks;
    if (!merged.empty() && merged.back().marks == now) {
      merged.back().end = run.end;
    } else {
      merged.push_back({run.end, now});
    }
  }
  runs_ = std::move(merged);
}

void Text::resize(size_t size) {
  if (size >= bytes_.size()) return;
  bytes_.resize(size);
  while (!runs_.empty() && runs_.size() > 1 && runs_[runs_.size() - 2].end >= size) runs_.pop_back();
  if (!runs_.empty()) runs_.back().end = size;
}

Text Text::slice(size_t begin, size_t end) const {
  Text out;
  out.append(*this, begin, end);
  return out;
}

uint8_t Text::marks_at(size_t byte) const {
  return runs_.empty() ? marks_ : runs_[run_index(byte)].marks;
}

std::vector<Text::Run> Text::runs() const {
  if (!runs_.empty()) return runs_;
  if (bytes_.empty()) return {};
  return {{bytes_.size(), marks_}};
}

size_t Text::run_index(size_t byte) const {
  auto run = std::upper_bound(runs_.begin(), runs_.end(), byte, [](size_t at, const Run& r) { return at < r.end; });
  return run == runs_.end() ? runs_.size() - 1 : static_cast<size_t>(run - runs_.begin());
}

}  // namespace tessera::jinja
