// Normalizers of tokenizer.json: what is done to a text before it is split. A Normalizer is immutable and thread-safe.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "text/regex.h"

namespace tessera {

// Unicode normalization (of utf8proc's Unicode version).
struct UnicodeForm {
  enum class Form { kNfc, kNfd, kNfkc, kNfkd } form;
};
// Puts `text` before a text that is not empty.
struct PrependText {
  std::string text;
};
// Every occurrence, from the left, without overlaps. REQUIRES a pattern that is not empty.
struct ReplaceText {
  std::string pattern;
  std::string content;
};
struct ReplaceMatches {
  Regex pattern;
  std::string content;
};
struct StripSpace {
  bool left;
  bool right;
};

class Normalizer {
 public:
  using Step = std::variant<UnicodeForm, PrependText, ReplaceText, ReplaceMatches, StripSpace>;

  void add(Step step) { steps_.push_back(std::move(step)); }
  size_t steps() const { return steps_.size(); }

  // The normalized text: a view of `text` itself where nothing changes, otherwise of one of the buffers. REQUIRES valid
  // UTF-8; returns valid UTF-8. Throws kUnsupported when a pattern needs too many steps, kInvalidArgument when the text
  // grows beyond kMaxBytes.
  struct Buffers {
    std::string first;
    std::string second;
  };
  std::string_view apply(std::string_view text, Buffers& buffers, Regex::Scratch& scratch) const;

  static constexpr size_t kMaxBytes = size_t{1} << 31;

 private:
  std::vector<Step> steps_;
};

// Appends `text` with every occurrence of `pattern` replaced. REQUIRES a pattern that is not empty.
void replace_text(std::string_view text, const ReplaceText& replace, std::string& out);
void replace_matches(std::string_view text, const ReplaceMatches& replace, Regex::Scratch& scratch, std::string& out);

}  // namespace tessera
