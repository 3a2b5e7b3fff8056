// Streaming UTF-8 repair: bytes in at any cut, valid UTF-8 out. Each maximal ill-formed part becomes one U+FFFD
// (Unicode 15, section 3.9, "substitution of maximal subparts"), so the result does not depend on how the bytes
// were cut. Not thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace tessera {

class Utf8Lossy {
 public:
  // Appends to `out` all characters that `bytes` completes; keeps at most three bytes of an unfinished one.
  void push(std::string_view bytes, std::string& out);
  // Appends U+FFFD for an unfinished character, if there is one.
  void flush(std::string& out);

 private:
  void push_byte(uint8_t byte, std::string& out);

  char kept_[4] = {};
  int kept_size_ = 0;
  int missing_ = 0;                   // continuation bytes still to come
  uint8_t low_ = 0x80, high_ = 0xBF;  // what the next continuation byte may be
};

std::string utf8_lossy(std::string_view bytes);

}  // namespace tessera
