#include "hub/toml_reader.h"

#include <utf8proc.h>

#include <algorithm>
#include <charconv>
#include <set>

#include "core/error.h"

namespace tessera::hub {

namespace {

constexpr size_t kMaxBytes = 1 << 20;
constexpr size_t kMaxParts = 16;  // of a dotted key

class Toml {
 public:
  Toml(std::string_view text, const std::string& where) : text_(text), where_(where) {}

  std::vector<TomlEntry> read() {
    std::vector<TomlEntry> entries;
    std::set<std::vector<std::string>> seen;
    std::vector<std::string> table;
    bool in_array = false;
    for (skip_lines(); !done(); end_line(), skip_lines()) {
      if (peek() == '[') {
        in_array = starts("[[");
        at_ += in_array ? 2 : 1;
        table = key();
        if (!starts(in_array ? "]]" : "]")) bad("a table's name ends with ']'");
        at_ += in_array ? 2 : 1;
        continue;
      }
      TomlEntry entry{.path = table, .text = std::nullopt, .number = std::nullopt};
      for (std::string& part : key()) entry.path.push_back(std::move(part));
      if (peek() != '=') bad("expected '=' after a key");
      ++at_;
      skip_spaces();
      value(entry);
      if (in_array) continue;
      if (!seen.insert(entry.path).second) bad("a key given twice");
      entries.push_back(std::move(entry));
    }
    return entries;
  }

 private:
  bool done() const { return at_ >= text_.size(); }
  char peek() const { return done() ? '\0' : text_[at_]; }
  bool starts(std::string_view what) const { return text_.substr(at_).starts_with(what); }
  [[noreturn]] void bad(const char* what) const {
    const auto line = 1 + std::ranges::count(text_.substr(0, std::min(at_, text_.size())), '\n');
    fail(ErrorCode::kCorrupt, "{}: line {}: {}", where_, line, what);
  }
  void skip_spaces() { at_ = std::min(text_.find_first_not_of(" \t", at_), text_.size()); }
  void skip_comment() {
    if (peek() == '#') at_ = std::min(text_.find('\n', at_), text_.size());
  }
  void skip_lines() {
    for (;;) {
      at_ = std::min(text_.find_first_not_of(" \t\r\n", at_), text_.size());
      if (peek() != '#') return;
      skip_comment();
    }
  }
  void end_line() {
    skip_spaces();
    skip_comment();
    if (starts("\r\n")) ++at_;
    if (!done() && peek() != '\n') bad("more text after a value");
  }

  std::vector<std::string> key() {
    std::vector<std::string> parts;
    for (;; ++at_) {
      skip_spaces();
      if (parts.size() == kMaxParts) bad("a key of too many parts");
      if (peek() == '"' || peek() == '\'') {
        parts.push_back(string());
      } else {
        const size_t begin = at_;
        while (is_bare(peek())) ++at_;
        if (at_ == begin) bad("expected a key");
        parts.emplace_back(text_.substr(begin, at_ - begin));
      }
      skip_spaces();
      if (peek() != '.') return parts;
    }
  }

  static bool is_bare(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
  }

  void value(TomlEntry& entry) {
    if (starts("\"\"\"") || starts("'''")) return skip_long_string();
    if (peek() == '"' || peek() == '\'') {
      entry.text = string();
      return;
    }
    if (peek() == '[' || peek() == '{') return skip_brackets();
    const size_t begin = at_;
    at_ = std::min(text_.find_first_of("#\r\n", at_), text_.size());
    std::string_view word = text_.substr(begin, at_ - begin);
    word = word.substr(0, word.find_last_not_of(" \t") + 1);
    if (word.empty()) bad("expected a value");
    int64_t number = 0;
    auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), number);
    if (error == std::errc() && end == word.data() + word.size()) entry.number = number;
  }

  // A string of one line, "basic" or 'literal'.
  std::string string() {
    const char quote = peek();
    std::string out;
    for (++at_; peek() != quote; ++at_) {
      if (done() || static_cast<unsigned char>(peek()) < 0x20 || peek() == 0x7f) bad("a string that does not end");
      if (peek() == '\\' && quote == '"') {
        escape(out);
      } else {
        out += peek();
      }
    }
    ++at_;
    return out;
  }

  // Leaves at_ on the escape's last character.
  void escape(std::string& out) {
    constexpr std::string_view kFrom = "btnfr\"\\", kTo = "\b\t\n\f\r\"\\";
    ++at_;
    if (const size_t i = kFrom.find(peek()); !done() && i != kFrom.npos) {
      out += kTo[i];
      return;
    }
    const size_t digits = peek() == 'u' ? 4 : peek() == 'U' ? 8 : 0;
    const std::string_view hex = text_.substr(std::min(at_ + 1, text_.size()), digits);
    uint32_t code = 0;
    auto [end, error] = std::from_chars(hex.data(), hex.data() + hex.size(), code, 16);
    const bool whole = digits > 0 && hex.size() == digits && error == std::errc() && end == hex.data() + digits;
    if (!whole || !utf8proc_codepoint_valid(static_cast<utf8proc_int32_t>(code))) bad("an unknown escape in a string");
    utf8proc_uint8_t bytes[4];
    const auto n = utf8proc_encode_char(static_cast<utf8proc_int32_t>(code), bytes);
    out.append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(n));
    at_ += digits;
  }

  void skip_long_string() {
    const std::string_view quotes = text_.substr(at_, 3);
    for (at_ += 3; !starts(quotes); ++at_) {
      if (done()) bad("a string that does not end");
      if (peek() == '\\' && quotes[0] == '"') ++at_;
    }
    at_ += 3;
    while (peek() == quotes[0]) ++at_;  // up to two of the quotes may belong to the string
  }

  // An array or inline table, with all in it.
  void skip_brackets() {
    int64_t depth = 0;
    do {
      if (done()) bad("a bracket that does not close");
      if (starts("\"\"\"") || starts("'''")) {
        skip_long_string();
      } else if (peek() == '"' || peek() == '\'') {
        string();
      } else if (peek() == '#') {
        skip_comment();
      } else {
        depth += peek() == '[' || peek() == '{' ? 1 : peek() == ']' || peek() == '}' ? -1 : 0;
        ++at_;
      }
    } while (depth > 0);
  }

  std::string_view text_;
  const std::string& where_;
  size_t at_ = 0;
};

}  // namespace

std::vector<TomlEntry> read_toml(std::string_view text, const std::string& where) {
  if (text.size() > kMaxBytes)
    fail(ErrorCode::kCorrupt, "{}: {} bytes, more than the {} this program takes", where, text.size(), kMaxBytes);
  return Toml(text, where).read();
}

}  // namespace tessera::hub
