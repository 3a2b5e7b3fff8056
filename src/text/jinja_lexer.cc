#include "text/jinja_lexer.h"

#include <charconv>
#include <cmath>

#include "core/error.h"
#include "text/jinja_print.h"
#include "text/jinja_unicode.h"
#include "text/utf8.h"

namespace tessera::jinja {

void syntax_error(const std::string& name, int line, const std::string& what) {
  fail(ErrorCode::kCorrupt, "{}:{}: {}", name, line, what);
}

std::string describe(const Token& token) {
  switch (token.kind) {
    case TokenKind::kData:
      return "template data / text";
    case TokenKind::kBlockBegin:
      return "begin of statement block";
    case TokenKind::kBlockEnd:
      return "end of statement block";
    case TokenKind::kVariableBegin:
      return "begin of print statement";
    case TokenKind::kVariableEnd:
      return "end of print statement";
    case TokenKind::kString:
      return "string";
    case TokenKind::kInteger:
      return "integer";
    case TokenKind::kFloat:
      return "float";
    case TokenKind::kEnd:
      return "end of template";
    default:
      return token.text;
  }
}

namespace {

constexpr size_t kMaxSource = size_t{1} << 20;

std::string normalize_newlines(std::string_view source) {
  std::string text;
  text.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      text.push_back('\n');
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      text.push_back(source[i]);
    }
  }
  if (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

class Lexer {
 public:
  Lexer(std::string_view source, const std::string& name) : name_(name) {
    if (source.size() > kMaxSource) error(fmt::format("the template has more than {} bytes", kMaxSource));
    if (!utf8_is_valid(source)) error("the template is not valid UTF-8");
    text_ = normalize_newlines(source);
  }

  std::vector<Token> run() {
    while (at_ < text_.size()) root();
    add(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  enum class Tag { kRaw, kComment, kBlock, kVariable };

  [[noreturn]] void error(const std::string& what) const { syntax_error(name_, line_, what); }
  bool starts(std::string_view with, size_t at) const {
    return std::string_view(text_).substr(at, with.size()) == with;
  }
  void add(TokenKind kind, std::string_view text) { tokens_.push_back({kind, line_, std::string(text), {}}); }

  // Moves to `end` and counts the lines on the way.
  void advance(size_t end) {
    for (; at_ < end; ++at_) line_ += text_[at_] == '\n';
    line_starting_ = at_ > 0 && text_[at_ - 1] == '\n';
  }

  size_t skip_space(size_t at) const {
    uint32_t c = 0;
    while (at < text_.size()) {
      size_t size = unicode::decode(text_, at, &c);
      if (!unicode::is_space(c)) break;
      at += size;
    }
    return at;
  }

  // Text up to the next tag, then what is inside the tag.
  void root() {
    size_t tag = at_;
    for (;; ++tag) {
      tag = text_.find('{', tag);
      if (tag == std::string::npos || tag + 1 >= text_.size()) {
        data(at_, text_.size());
        return advance(text_.size());
      }
      char c = text_[tag + 1];
      if (c == '%' || c == '{' || c == '#') break;
    }
    size_t inside = tag + 2;
    char sign = inside < text_.size() && (text_[inside] == '-' || text_[inside] == '+') ? text_[inside++] : 0;
    Tag kind = text_[tag + 1] == '{' ? Tag::kVariable : text_[tag + 1] == '#' ? Tag::kComment : Tag::kBlock;
    size_t raw_end = kind == Tag::kBlock ? raw_begin(inside) : 0;
    data(at_, data_end(at_, tag, sign, kind != Tag::kVariable));
    advance(tag);
    if (raw_end != 0) {
      advance(raw_end);
      return raw();
    }
    advance(inside);
    if (kind == Tag::kComment) return comment();
    add(kind == Tag::kBlock ? TokenKind::kBlockBegin : TokenKind::kVariableBegin, text_.substr(tag, 2));
    this->tag(kind);
  }

  void data(size_t begin, size_t end) {
    if (end > begin) add(TokenKind::kData, std::string_view(text_).substr(begin, end - begin));
  }

  // Where the text before a tag ends: `-` strips all space, lstrip_blocks the space of its line.
  size_t data_end(size_t begin, size_t tag, char sign, bool strips_line) const {
    std::string_view text = std::string_view(text_).substr(begin, tag - begin);
    size_t end = text.size();
    auto strip_from = [&](size_t stop) {
      uint32_t c = 0;
      while (end > stop) {
        size_t before = unicode::previous(text, end);
        unicode::decode(text, before, &c);
        if (!unicode::is_space(c)) return;
        end = before;
      }
    };
    if (sign == '-') {
      strip_from(0);
    } else if (sign != '+' && strips_line) {
      size_t newline = text.rfind('\n');
      size_t line = newline == std::string_view::npos ? 0 : newline + 1;
      if (line > 0 || line_starting_) {
        strip_from(line);
        if (end != line) end = text.size();
      }
    }
    return begin + end;
  }

  // After `{%` and its sign: the end of `raw %}`, or 0.
  size_t raw_begin(size_t at) const {
    at = skip_space(at);
    if (!starts("raw", at)) return 0;
    at = skip_space(at + 3);
    if (starts("-%}", at)) return skip_space(at + 3);
    return starts("%}", at) ? at + 2 : 0;
  }

  void raw() {
    for (size_t tag = at_;; tag += 2) {
      tag = text_.find("{%", tag);
      if (tag == std::string::npos) error("Missing end of raw directive");
      size_t at = tag + 2;
      char sign = at < text_.size() && (text_[at] == '-' || text_[at] == '+') ? text_[at++] : 0;
      at = skip_space(at);
      if (!starts("endraw", at)) continue;
      size_t end = end_of_tag(skip_space(at + 6), "%}");
      if (end == 0) continue;
      data(at_, data_end(at_, tag, sign, true));
      return advance(end);
    }
  }

  // The position behind `+%}`, `-%}` and following space, or `%}` and one newline; 0 when `at` has none of them.
  size_t end_of_tag(size_t at, std::string_view closing) const {
    if (at < text_.size() && text_[at] == '+' && starts(closing, at + 1)) return at + 1 + closing.size();
    if (at < text_.size() && text_[at] == '-' && starts(closing, at + 1)) return skip_space(at + 1 + closing.size());
    if (!starts(closing, at)) return 0;
    at += closing.size();
    return at < text_.size() && text_[at] == '\n' ? at + 1 : at;
  }

  void comment() {
    size_t closing = text_.find("#}", at_);
    if (closing == std::string::npos) error("Missing end of comment tag");
    bool sign = closing > at_ && (text_[closing - 1] == '-' || text_[closing - 1] == '+');
    advance(end_of_tag(sign ? closing - 1 : closing, "#}"));
  }

  void tag(Tag kind) {
    std::string open;  // closing brackets that are still to come
    while (true) {
      if (at_ >= text_.size()) return;
      if (open.empty()) {
        size_t end = kind == Tag::kBlock ? end_of_tag(at_, "%}") : end_of_variable();
        if (end != 0) {
          add(kind == Tag::kBlock ? TokenKind::kBlockEnd : TokenKind::kVariableEnd, "");
          return advance(end);
        }
      }
      token(&open);
    }
  }

  size_t end_of_variable() const {
    if (starts("-}}", at_)) return skip_space(at_ + 3);
    return starts("}}", at_) ? at_ + 2 : 0;
  }

  void token(std::string* open) {
    uint32_t c = 0;
    size_t size = unicode::decode(text_, at_, &c);
    if (unicode::is_space(c)) return advance(skip_space(at_));
    if (c >= '0' && c <= '9') return number();
    if (c == '_' || unicode::is_alnum(c)) return word();
    if (c == '\'' || c == '"') {
      if (string(static_cast<char>(c))) return;
    } else if (c < 0x80 && op(open)) {
      return;
    }
    error(fmt::format("unexpected char '{}'", text_.substr(at_, size)));
  }

  void word() {
    size_t end = at_;
    uint32_t c = 0;
    while (end < text_.size()) {
      size_t size = unicode::decode(text_, end, &c);
      if (c != '_' && !unicode::is_alnum(c)) break;
      end += size;
    }
    unicode::decode(text_, at_, &c);
    if (c != '_' && !unicode::is_alpha(c)) error("Invalid character in identifier");
    add(TokenKind::kName, std::string_view(text_).substr(at_, end - at_));
    advance(end);
  }

  // digits with single underscores between them; returns the end, or `at` when there is no digit
  template <class IsDigit>
  size_t digits(size_t at, bool underscore_first, IsDigit is_digit) const {
    size_t end = at;
    for (;;) {
      size_t digit = end + (end < text_.size() && text_[end] == '_' && (end > at || underscore_first));
      if (digit >= text_.size() || !is_digit(text_[digit])) return end;
      end = digit + 1;
    }
  }

  static bool is_decimal(char c) { return c >= '0' && c <= '9'; }
  static unsigned digit_value(char c) {
    if (is_decimal(c)) return static_cast<unsigned>(c - '0');
    char lower = static_cast<char>(c | 0x20);
    return lower >= 'a' && lower <= 'f' ? static_cast<unsigned>(lower - 'a') + 10 : 99;
  }

  // 1.5, 1e3, 1_000.0e-5; 0 when a float does not start here
  size_t end_of_float() const {
    if (at_ > 0 && text_[at_ - 1] == '.') return 0;
    size_t whole = digits(at_, false, is_decimal);
    size_t end = whole;
    bool is_float = false;
    if (end < text_.size() && text_[end] == '.') {
      size_t fraction = digits(end + 1, false, is_decimal);
      if (fraction > end + 1) {
        end = fraction;
        is_float = true;
      }
    }
    if (end < text_.size() && (text_[end] == 'e' || text_[end] == 'E')) {
      size_t sign = end + 1 + (end + 1 < text_.size() && (text_[end + 1] == '+' || text_[end + 1] == '-'));
      size_t exponent = digits(sign, false, is_decimal);
      if (exponent > sign) return exponent;
    }
    return is_float ? end : 0;
  }

  size_t end_of_integer(unsigned* base) const {
    *base = 10;
    char second = at_ + 1 < text_.size() ? static_cast<char>(text_[at_ + 1] | 0x20) : 0;
    if (text_[at_] == '0' && (second == 'b' || second == 'o' || second == 'x')) {
      unsigned of = second == 'b' ? 2 : second == 'o' ? 8 : 16;
      size_t end = digits(at_ + 2, true, [&](char c) { return digit_value(c) < of; });
      if (end > at_ + 2) {
        *base = of;
        return end;
      }
    }
    if (text_[at_] == '0') return digits(at_, false, [](char c) { return c == '0'; });
    return digits(at_, false, is_decimal);
  }

  void number() {
    if (size_t end = end_of_float(); end != 0) {
      std::string plain = without_underscores(at_, end);
      double value = 0;
      auto read = std::from_chars(plain.data(), plain.data() + plain.size(), value);
      if (read.ec == std::errc::result_out_of_range) value = overflowed(plain);
      add(TokenKind::kFloat, plain);
      tokens_.back().number = Value::real(value);
      return advance(end);
    }
    unsigned base = 10;
    size_t end = end_of_integer(&base);
    std::string plain = without_underscores(at_ + (base == 10 ? 0 : 2), end);
    Int value = 0;
    for (char c : plain) {
      if (__builtin_mul_overflow(value, static_cast<Int>(base), &value) ||
          __builtin_add_overflow(value, static_cast<Int>(digit_value(c)), &value)) {
        error("an integer of more than 128 bits is not supported");
      }
    }
    add(TokenKind::kInteger, plain);
    tokens_.back().number = Value::integer(value);
    advance(end);
  }

  // from_chars does not say which way a number left the range.
  static double overflowed(const std::string& plain) {
    size_t e = plain.find_first_of("eE");
    return e != std::string::npos && plain[e + 1] == '-' ? 0.0 : HUGE_VAL;
  }

  std::string without_underscores(size_t begin, size_t end) const {
    std::string plain;
    for (size_t i = begin; i < end; ++i) {
      if (text_[i] != '_') plain.push_back(text_[i]);
    }
    return plain;
  }

  bool string(char quote) {
    size_t end = at_ + 1;
    while (end < text_.size() && text_[end] != quote) end += text_[end] == '\\' ? 2 : 1;
    if (end >= text_.size()) return false;
    add(TokenKind::kString, unescape(std::string_view(text_).substr(at_ + 1, end - at_ - 1)));
    advance(end + 1);
    return true;
  }

  // Python's unicode-escape codec after backslashreplace: a backslash before a non-ASCII character keeps both and
  // spells the character as an escape.
  std::string unescape(std::string_view raw) const {
    std::string out;
    for (size_t i = 0; i < raw.size();) {
      if (raw[i] != '\\') {
        out.push_back(raw[i++]);
        continue;
      }
      if (i + 1 >= raw.size()) error("\\ at end of string");
      i = escape(raw, i + 1, &out);
    }
    return out;
  }

  // The escape whose first character after the backslash is at `i`; returns the position behind it.
  size_t escape(std::string_view raw, size_t i, std::string* out) const {
    static constexpr std::string_view kFrom = "\\'\"abfnrtv";
    static constexpr std::string_view kTo = "\\'\"\a\b\f\n\r\t\v";
    char c = raw[i];
    if (size_t k = kFrom.find(c); k != std::string_view::npos) {
      out->push_back(kTo[k]);
      return i + 1;
    }
    if (c == '\n') return i + 1;
    if (c >= '0' && c <= '7') {
      uint32_t value = 0;
      size_t end = i;
      while (end < raw.size() && end < i + 3 && raw[end] >= '0' && raw[end] <= '7') {
        value = value * 8 + static_cast<uint32_t>(raw[end++] - '0');
      }
      utf8_append(*out, value);
      return end;
    }
    if (c == 'x' || c == 'u' || c == 'U') {
      size_t count = c == 'x' ? 2 : c == 'u' ? 4 : 8;
      uint32_t value = 0;
      auto digits = raw.substr(i + 1, count);
      auto read = std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
      if (digits.size() < count || read.ptr != digits.data() + count) error(fmt::format("truncated \\{} escape", c));
      if (value > 0x10ffff) error("illegal Unicode character");
      if (value >= 0xd800 && value < 0xe000) error("a surrogate escape cannot be written as UTF-8");
      utf8_append(*out, value);
      return i + 1 + count;
    }
    if (c == 'N') {
      if (i + 1 < raw.size() && raw[i + 1] == '{') {
        fail(ErrorCode::kUnsupported, "{}:{}: \\N{{...}} escapes are not supported; write the character itself", name_,
             line_);
      }
      error("malformed \\N character escape");
    }
    out->push_back('\\');
    uint32_t code_point = 0;
    size_t size = unicode::decode(raw, i, &code_point);
    if (code_point < 0x80) {
      out->push_back(c);
    } else {
      out->append(format_code_point(code_point).substr(1));
    }
    return i + size;
  }

  // One operator; brackets are balanced so that `}}` inside a dict does not end the tag.
  bool op(std::string* open) {
    static constexpr std::string_view kTwo[] = {"//", "**", "==", "!=", ">=", "<="};
    std::string_view rest = std::string_view(text_).substr(at_);
    size_t size = 0;
    for (std::string_view two : kTwo) {
      if (rest.substr(0, 2) == two) size = 2;
    }
    if (size == 0 && std::string_view("+-/*%~[](){}><=.:|,;").find(rest[0]) != std::string_view::npos) size = 1;
    if (size == 0) return false;
    char c = rest[0];
    if (c == '{' || c == '(' || c == '[') open->push_back(c == '{' ? '}' : c == '(' ? ')' : ']');
    if (c == '}' || c == ')' || c == ']') {
      if (open->empty()) error(fmt::format("unexpected '{}'", c));
      char expected = open->back();
      open->pop_back();
      if (expected != c) error(fmt::format("unexpected '{}', expected '{}'", c, expected));
    }
    add(TokenKind::kOperator, rest.substr(0, size));
    advance(at_ + size);
    return true;
  }

  const std::string& name_;
  std::string text_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source, const std::string& name) {
  return Lexer(source, name).run();
}

}  // namespace tessera::jinja
