// What Python's str knows about code points, on UTF-8. The properties come from utf8proc (Unicode 15); code points that
// only the newer standard knows may differ from an older Python. All functions are pure and never read out of bounds.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace tessera::jinja::unicode {

// The code point at byte `at` (< text.size()); returns its length in bytes. Broken bytes read as U+FFFD, length 1.
size_t decode(std::string_view text, size_t at, uint32_t* code_point);
int64_t length(std::string_view text);                // code points
size_t offset(std::string_view text, int64_t index);  // byte offset of a code point; text.size() when past the end
size_t previous(std::string_view text, size_t at);    // start of the code point that ends before byte `at` (> 0)

std::string_view trim(std::string_view text);  // without whitespace at both ends

bool is_space(uint32_t c);
bool is_line_break(uint32_t c);
bool is_alpha(uint32_t c);
bool is_decimal(uint32_t c);
bool is_digit(uint32_t c);
bool is_numeric(uint32_t c);
bool is_alnum(uint32_t c);
bool is_printable(uint32_t c);
bool is_lower(uint32_t c);
bool is_upper(uint32_t c);
bool is_title(uint32_t c);
bool is_cased(uint32_t c);

// Full case mappings (one code point may become three). Lower-casing a final sigma needs its surroundings.
void append_upper(uint32_t c, std::string* out);
void append_title(uint32_t c, std::string* out);
void append_lower(std::string_view text, size_t at, uint32_t c, std::string* out);
void append_folded(uint32_t c, std::string* out);

}  // namespace tessera::jinja::unicode
