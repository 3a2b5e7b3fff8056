// Characters of valid UTF-8; utf8_lossy.h makes UTF-8 valid. Pure functions: thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace tessera {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

bool utf8_is_valid(std::string_view text);

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

}  // namespace tessera
