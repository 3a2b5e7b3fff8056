// A list of names for one message: the first few, then how many more.
#pragma once

#include <fmt/ranges.h>

#include <cstddef>
#include <string>
#include <vector>

namespace tessera {

class NameList {
 public:
  void add(std::string name) {
    if (++count_ <= kShown) names_.push_back(std::move(name));
  }
  bool empty() const { return count_ == 0; }
  size_t count() const { return count_; }
  std::string str() const {
    std::string text = fmt::format("{}", fmt::join(names_, ", "));
    if (count_ > kShown) text += fmt::format(" and {} more", count_ - kShown);
    return text;
  }

 private:
  static constexpr size_t kShown = 5;
  std::vector<std::string> names_;
  size_t count_ = 0;
};

}  // namespace tessera
