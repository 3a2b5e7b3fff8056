// Turns pieces of generated text into what may be shown: text that might begin a stop string is held back until it is
// certain, and nothing from a stop string on is given out. Not thread-safe.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace tessera {

class TextStream {
 public:
  explicit TextStream(std::vector<std::string> stop) : stop_(std::move(stop)) {}

  // The text that became certain; empty after a stop string was found.
  std::string push(std::string_view piece);
  // At the end of generation: what was held back.
  std::string finish();
  bool stopped() const { return stopped_; }
  // The stop string that was found; the first of them in the list where several begin at one place.
  const std::string& found() const { return found_; }

 private:
  std::vector<std::string> stop_;
  std::string held_, found_;
  bool stopped_ = false;
};

}  // namespace tessera
