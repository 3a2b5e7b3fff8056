#include "text/byte_alphabet.h"

#include <array>
#include <cstdint>

#include "text/utf8.h"

namespace tessera {
namespace {

constexpr int kAlphabetEnd = 0x144;

struct Tables {
  std::array<uint16_t, 256> code{};
  std::array<int16_t, kAlphabetEnd> byte{};  // -1: no byte
};

constexpr Tables make_tables() {
  Tables tables;
  for (auto& byte : tables.byte) byte = -1;
  uint16_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    uint16_t code = printable ? static_cast<uint16_t>(byte) : next++;
    tables.code[static_cast<size_t>(byte)] = code;
    tables.byte[code] = static_cast<int16_t>(byte);
  }
  return tables;
}

constexpr Tables kTables = make_tables();

}  // namespace

void byte_alphabet_encode(std::string_view bytes, std::string& out) {
  for (char c : bytes) utf8_append(out, kTables.code[static_cast<uint8_t>(c)]);
}

bool byte_alphabet_decode(std::string_view text, std::string& out) {
  size_t before = out.size();
  for (size_t i = 0; i < text.size();) {
    auto lead = static_cast<uint8_t>(text[i]);
    char32_t code = lead;
    if (lead >= 0x80) code = lead < 0xE0 ? utf8_front(text.substr(i)) : char32_t{kAlphabetEnd};
    if (code >= kAlphabetEnd || kTables.byte[code] < 0) {
      out.resize(before);
      return false;
    }
    out.push_back(static_cast<char>(kTables.byte[code]));
    i += lead < 0x80 ? 1 : 2;
  }
  return true;
}

}  // namespace tessera
