// UTF-8 helpers of the text folder. Invalid bytes are replaced as WHATWG, Python and Rust do it: one U+FFFD for every
// maximal part that could have begun a character. Everything here is pure or confined to one object: thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace tessera {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

bool utf8_is_valid(std::string_view text);
std::string utf8_replace_invalid(std::string_view bytes);

// Bytes of the character that begins with `lead`. REQUIRES the first byte of a character in valid UTF-8.
inline int utf8_length(char lead) {
  auto byte = static_cast<uint8_t>(lead);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

// The character at the start of `text`. REQUIRES text to be valid UTF-8 and not empty.
char32_t utf8_front(std::string_view text);
// The character that ends where `text` ends. REQUIRES as above.
char32_t utf8_back(std::string_view text);
// REQUIRES a Unicode scalar value.
void utf8_append(std::string& out, char32_t code);

// Unicode's White_Space property: a fixed list, the same in every Unicode version since 6.3.
bool is_white_space(char32_t code);

// Turns bytes that arrive in pieces into UTF-8 text: a character appears when it is complete, an invalid part becomes
// one U+FFFD as soon as it is known to be invalid.
class Utf8Repair {
 public:
  void push(std::string_view bytes, std::string& out);
  // The input has ended: an incomplete character becomes one U+FFFD.
  void flush(std::string& out);

 private:
  void start(uint8_t byte, std::string& out);

  char pending_[4] = {};
  int have_ = 0;        // bytes in pending_
  int need_ = 0;        // bytes of the pending character
  uint8_t low_ = 0x80;  // range of the next byte
  uint8_t high_ = 0xBF;
};

}  // namespace tessera
