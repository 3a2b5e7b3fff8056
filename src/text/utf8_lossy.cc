#include "text/utf8_lossy.h"

namespace tessera {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

}  // namespace

void Utf8Lossy::flush(std::string& out) {
  if (kept_size_ > 0) out += kReplacement;
  kept_size_ = missing_ = 0;
}

void Utf8Lossy::push_byte(uint8_t byte, std::string& out) {
  if (missing_ > 0) {
    if (byte >= low_ && byte <= high_) {
      kept_[kept_size_++] = static_cast<char>(byte);
      low_ = 0x80;
      high_ = 0xBF;
      if (--missing_ == 0) {
        out.append(kept_, static_cast<size_t>(kept_size_));
        kept_size_ = 0;
      }
      return;
    }
    flush(out);  // the byte starts something new
  }
  if (byte < 0x80) {
    out += static_cast<char>(byte);
    return;
  }
  // Table 3-7 of the standard: the first continuation byte is narrower after E0, ED, F0 and F4.
  low_ = byte == 0xE0 ? 0xA0 : byte == 0xF0 ? 0x90 : 0x80;
  high_ = byte == 0xED ? 0x9F : byte == 0xF4 ? 0x8F : 0xBF;
  if (byte >= 0xC2 && byte <= 0xDF) {
    missing_ = 1;
  } else if (byte >= 0xE0 && byte <= 0xEF) {
    missing_ = 2;
  } else if (byte >= 0xF0 && byte <= 0xF4) {
    missing_ = 3;
  } else {
    out += kReplacement;
    return;
  }
  kept_[0] = static_cast<char>(byte);
  kept_size_ = 1;
}

void Utf8Lossy::push(std::string_view bytes, std::string& out) {
  for (char c : bytes) push_byte(static_cast<uint8_t>(c), out);
}

std::string utf8_lossy(std::string_view bytes) {
  Utf8Lossy decoder;
  std::string out;
  out.reserve(bytes.size());
  decoder.push(bytes, out);
  decoder.flush(out);
  return out;
}

}  // namespace tessera
