// Added tokens of tokenizer.json: strings that are found in the text before anything else happens to it and become one
// id. Built once; const members are thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

struct AddedToken {
  int32_t id = -1;
  std::string content;
  bool special = false;
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // takes the white space on its left with it
  bool rstrip = false;
  bool normalized = true;  // is searched, normalized, in the normalized text
};

// Bytes [begin, end) of a text.
struct TextRange {
  size_t begin = 0;
  size_t end = 0;
};

// Finds a set of strings in a text: the leftmost, and of those the longest. Time for one text is bounded by its length
// times the longest string.
class AddedTokenMatcher {
 public:
  // A string that would make this bound large is not a token.
  static constexpr size_t kMaxContentBytes = 1024;

  // `patterns` are searched, `patterns[i]` for `tokens[i]`. An empty pattern never matches; of equal ones the first
  // counts.
  AddedTokenMatcher(std::vector<AddedToken> tokens, std::vector<std::string> patterns);

  // A part of a text: a token, or text between tokens.
  struct Piece {
    int32_t id = -1;  // -1: text
    size_t begin = 0;
    size_t end = 0;
  };
  // Appends the pieces of `text` in order, without empty ones. With `parse_special` false, special tokens are found and
  // passed over: they stay part of the text around them; so are those that touch a range of `plain`, which are in
  // order. REQUIRES valid UTF-8.
  void split(std::string_view text, bool parse_special, std::span<const TextRange> plain,
             std::vector<Piece>& pieces) const;

  bool empty() const { return patterns_.empty(); }

 private:
  struct Pattern {
    std::string text;
    AddedToken token;
  };
  const Pattern* match_at(std::string_view text, size_t at, size_t& length) const;

  std::vector<Pattern> patterns_;      // sorted by text
  std::array<bool, 256> starts_ = {};  // first bytes of the patterns
};

}  // namespace tessera
