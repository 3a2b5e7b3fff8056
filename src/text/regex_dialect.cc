// Oniguruma's Ruby dialect to PCRE2's. Most of a tokenizer's pattern is the same in both; \s, \w, \d, \v, \u, ^, $ and
// script names differ and are rewritten; inline options, named groups, nested classes, \h and the like mean something
// else in PCRE2 and are refused by name, never passed through.
#include <cctype>

#include "core/error.h"
#include "text/regex.h"
#include "text/utf8.h"

namespace tessera {
namespace {

// Unicode's White_Space (PCRE2's own \s adds U+180E) and its complement.
constexpr std::string_view kSpace =
    R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
constexpr std::string_view kNotSpace =
    R"(\x{0}-\x{8}\x{e}-\x{1f}\x{21}-\x{84}\x{86}-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027})"
    R"(\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{10ffff})";
// Oniguruma's word characters: Alphabetic, M, Nd, Pc. What is Alphabetic and neither L, Nl nor M is circled letters.
constexpr std::string_view kWord =
    R"(\p{L}\p{Nl}\p{M}\p{Nd}\p{Pc}\x{24b6}-\x{24e9}\x{1f130}-\x{1f149}\x{1f150}-\x{1f169}\x{1f170}-\x{1f189})";

class Translator {
 public:
  Translator(std::string_view pattern, const std::string& where) : in_(pattern), where_(where) {}

  std::string run() {
    while (at_ < in_.size()) {
      char c = in_[at_];
      if (c == '\\') {
        escape(/*in_class=*/false);
      } else if (c == '[') {
        character_class();
      } else if (c == '(') {
        group();
      } else if (c == '^') {  // Ruby's anchors are those of lines; after a last newline there is no line
        rewrite(R"((?:\A|(?<=\n)(?!\z)))");
      } else if (c == '$') {
        rewrite(R"((?:(?=\n)|(?<!\n)\z))");
      } else if (c == '{') {
        repeat();
      } else {
        take(1);
      }
    }
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(std::string_view what) const {
    fail(ErrorCode::kUnsupported, "{}: pattern \"{}\" uses {} at byte {}, which is not supported", where_, in_, what,
         at_);
  }

  bool starts(std::string_view what) const { return in_.substr(at_).starts_with(what); }
  char peek(size_t ahead) const { return at_ + ahead < in_.size() ? in_[at_ + ahead] : '\0'; }

  void take(size_t n) {
    out_ += in_.substr(at_, n);
    at_ += n;
  }

  void rewrite(std::string_view text) {
    out_ += text;
    ++at_;
  }

  void group() {
    static constexpr std::string_view kKnown[] = {"(?:", "(?i:", "(?-i:", "(?=", "(?!", "(?<=", "(?<!", "(?>"};
    if (peek(1) == '*') refuse("a (* verb");
    if (peek(1) != '?') return take(1);
    for (std::string_view known : kKnown) {
      if (starts(known)) return take(known.size());
    }
    refuse("a group of a kind other than (?: (?i: (?-i: (?= (?! (?<= (?<! (?>");
  }

  // {n}, {n,} and {n,m}; a following + or ? means something else in Ruby's dialect, and so does {,n}.
  void repeat() {
    size_t close = in_.find('}', at_);
    if (close == std::string_view::npos) refuse("an unescaped {");
    std::string_view inside = in_.substr(at_ + 1, close - at_ - 1);
    bool counted = !inside.empty() && inside[0] != ',';
    for (char c : inside) counted = counted && (std::isdigit(static_cast<unsigned char>(c)) != 0 || c == ',');
    if (!counted) refuse("{ } that is not {n}, {n,} or {n,m}");
    char after = close + 1 < in_.size() ? in_[close + 1] : '\0';
    if (after == '+' || after == '?') refuse("+ or ? after { }");
    take(close + 1 - at_);
  }

  void character_class() {
    take(1);
    if (peek(0) == '^') take(1);
    class_start_ = at_;
    if (peek(0) == ']') refuse("a ] that opens a class");
    while (at_ < in_.size() && in_[at_] != ']') {
      if (in_[at_] == '\\') {
        escape(/*in_class=*/true);
      } else if (in_[at_] == '[') {
        refuse("a class inside a class");
      } else if (starts("&&")) {
        refuse("an intersection of classes");
      } else {
        take(1);
      }
    }
    if (at_ >= in_.size()) refuse("a class that does not end");
    take(1);
  }

  // REQUIRES an escape that stands for several characters: it cannot begin or end a range.
  void refuse_in_range(size_t n) const {
    bool dash_before = in_[at_ - 1] == '-' && at_ - 1 != class_start_ && in_[at_ - 2] != '\\';
    if (dash_before || (peek(n) == '-' && peek(n + 1) != ']')) refuse("a range between escapes of several characters");
  }

  void replace(size_t n, bool in_class, std::string_view members, bool negated = false) {
    if (in_class) refuse_in_range(n);
    at_ += n;
    if (in_class) {
      out_ += members;
    } else {
      out_ += negated ? "[^" : "[";
      out_ += members;
      out_ += ']';
    }
  }

  void escape(bool in_class) {
    char c = peek(1);
    switch (c) {
      case 's':
        return replace(2, in_class, kSpace);
      case 'S':
        return replace(2, in_class, kNotSpace);
      case 'd':
        return replace(2, in_class, "\\p{Nd}");
      case 'D':
        return replace(2, in_class, "\\P{Nd}");
      case 'w':
        return replace(2, in_class, kWord);
      case 'W':
        if (in_class) refuse("\\W in a class");
        return replace(2, in_class, kWord, /*negated=*/true);
      case 'v':
        return literal(2, 0x0B);
      case 'p':
      case 'P':
        return property();
      case 'x':
        return hexadecimal();
      case 'u':
        return literal(6, hex_value(at_ + 2, 4));
      case 'A':
      case 'z':
        if (in_class) refuse("\\A or \\z in a class");
        return take(2);
      default:
        break;
    }
    if (c == '\0') refuse("a lone \\");
    static constexpr std::string_view kSame = "rntfae";
    if (std::isalnum(static_cast<unsigned char>(c)) != 0 && kSame.find(c) == std::string_view::npos) {
      refuse(fmt::format("\\{}", c));
    }
    take(static_cast<unsigned char>(c) < 0x80 ? 2 : 1);
  }

  void literal(size_t n, uint32_t code) {
    at_ += n;
    fmt::format_to(std::back_inserter(out_), "\\x{{{:x}}}", code);
  }

  uint32_t hex_value(size_t begin, size_t digits) const {
    uint32_t value = 0;
    if (begin + digits > in_.size() || digits == 0 || digits > 6) refuse("an escape with too few or too many digits");
    for (size_t i = begin; i < begin + digits; ++i) {
      auto digit = static_cast<unsigned char>(in_[i]);
      if (std::isxdigit(digit) == 0) refuse("an escape whose digits are not hexadecimal");
      value = value * 16 + static_cast<uint32_t>(std::isdigit(digit) != 0 ? digit - '0' : (digit | 0x20) - 'a' + 10);
    }
    return value;
  }

  void hexadecimal() {
    if (peek(2) == '{') {
      size_t close = in_.find('}', at_);
      if (close == std::string_view::npos) refuse("\\x{ without }");
      return literal(close + 1 - at_, hex_value(at_ + 3, close - at_ - 3));
    }
    uint32_t value = hex_value(at_ + 2, 2);
    if (value >= 0x80) refuse("\\x of a single byte above 7f");
    literal(4, value);
  }

  // Categories have one or two letters; anything longer is taken as a script (PCRE2's plain name would be
  // Script_Extensions).
  void property() {
    size_t close = in_.find('}', at_);
    if (peek(2) != '{' || close == std::string_view::npos) refuse("\\p without {name}");
    std::string_view name = in_.substr(at_ + 3, close - at_ - 3);
    bool negated = name.starts_with('^');
    if (negated) name.remove_prefix(1);
    for (char c : name) {
      if (std::isalpha(static_cast<unsigned char>(c)) == 0 && c != '_')
        refuse("a property name with other than letters");
    }
    if (name.empty()) refuse("an empty property name");
    fmt::format_to(std::back_inserter(out_), "\\{}{{{}{}{}}}", in_[at_ + 1], negated ? "^" : "",
                   name.size() > 2 ? "sc:" : "", name);
    at_ = close + 1;
  }

  std::string_view in_;
  const std::string& where_;
  size_t at_ = 0;
  size_t class_start_ = 0;  // where the members of the class being read begin
  std::string out_;
};

}  // namespace

std::string translate_oniguruma(std::string_view pattern, const std::string& where) {
  return Translator(pattern, where).run();
}

}  // namespace tessera
