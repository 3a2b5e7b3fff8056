// The byte-level alphabet of GPT-2 and everything after it: each byte is written as one printable character, so that a
// vocabulary file holds any bytes as JSON strings. Bytes 33-126, 161-172, 174-255 stand for themselves; the other 68,
// in order, are U+0100 to U+0143. Stateless, thread-safe.
#pragma once

#include <string>
#include <string_view>

namespace tessera {

// Appends the characters that stand for `bytes`.
void byte_alphabet_encode(std::string_view bytes, std::string& out);
// Appends the bytes that `text` stands for; when one character is outside of the alphabet, returns false and leaves
// `out` as it was. REQUIRES valid UTF-8.
bool byte_alphabet_decode(std::string_view text, std::string& out);

}  // namespace tessera
