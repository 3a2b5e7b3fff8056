#include "text/grammar_schema_number.h"

#include <algorithm>
#include <charconv>

#include "core/error.h"

namespace tessera {

namespace {

using Node = GrammarAst::Node;

constexpr int kDigits = 18;          // before the point
constexpr int kFractionDigits = 17;  // after it

// |value| as decimal digits, without leading zeros in `whole` (0 is "0") or trailing ones in `fraction`.
struct Decimal {
  bool negative = false;
  std::string whole = "0", fraction;
  bool zero() const { return whole == "0" && fraction.empty(); }
};

Decimal decimal(const OrderedJson& number) {
  std::string text = number.dump();
  Decimal out;
  if (text.starts_with('-')) {
    out.negative = true;
    text.erase(0, 1);
  }
  int exponent = 0;
  if (const size_t e = text.find_first_of("eE"); e != std::string::npos) {
    const char* begin = text.data() + e + (text[e + 1] == '+' ? 2 : 1);
    std::from_chars(begin, text.data() + text.size(), exponent);
    text.erase(e);
  }
  const size_t point = std::min(text.find('.'), text.size());
  std::string digits = text.substr(0, point) + (point < text.size() ? text.substr(point + 1) : std::string());
  auto whole_digits = static_cast<int64_t>(point) + exponent;
  while (whole_digits < 0 && digits.size() < 700) digits.insert(digits.begin(), '0'), ++whole_digits;
  while (static_cast<int64_t>(digits.size()) < whole_digits) digits += '0';
  out.whole = digits.substr(0, static_cast<size_t>(whole_digits));
  out.fraction = digits.substr(static_cast<size_t>(whole_digits));
  out.whole.erase(0, std::min(out.whole.find_first_not_of('0'), out.whole.size()));
  if (out.whole.empty()) out.whole = "0";
  out.fraction.erase(out.fraction.find_last_not_of('0') + 1);
  if (out.zero()) out.negative = false;
  return out;
}

int compare(const std::string& a, const std::string& b) {  // whole parts
  if (a.size() != b.size()) return a.size() < b.size() ? -1 : 1;
  return a.compare(b);
}

class Builder {
 public:
  explicit Builder(GrammarAst& ast) : ast_(ast) {}

  Node digit(char low, char high) { return ast_.chars({{static_cast<char32_t>(low), static_cast<char32_t>(high)}}); }
  Node digits(int min, int max) { return ast_.repeat(digit('0', '9'), min, max); }
  Node any_whole() { return ast_.alt({ast_.bytes("0"), ast_.seq({digit('1', '9'), digits(0, kDigits - 1)})}); }
  Node any_fraction() { return ast_.optional(ast_.seq({ast_.bytes("."), digits(1, kFractionDigits)})); }

  // Whole numbers from low to high, both inclusive and given as digits.
  Node whole_between(const std::string& low, const std::string& high) {
    std::vector<Node> parts;
    for (size_t length = low.size(); length <= high.size(); ++length) {
      std::string from = low;
      if (length > low.size()) from.assign(length, '0')[0] = '1';
      const std::string to = length == high.size() ? high : std::string(length, '9');
      if (compare(from, to) <= 0) parts.push_back(same_length(from, to, 0, true, true));
    }
    return ast_.alt(std::move(parts));
  }

  // Digits from position i on, while the earlier ones equal low's (at_low) and high's (at_high).
  Node same_length(const std::string& low, const std::string& high, size_t i, bool at_low, bool at_high) {
    if (i == low.size()) return ast_.empty();
    if (!at_low && !at_high) return digits(static_cast<int>(low.size() - i), static_cast<int>(low.size() - i));
    const char from = at_low ? low[i] : '0', to = at_high ? high[i] : '9';
    if (from == to) return ast_.seq({digit(from, to), same_length(low, high, i + 1, at_low, at_high)});
    std::vector<Node> parts;
    char first = from, last = to;
    if (at_low) parts.push_back(ast_.seq({digit(from, from), same_length(low, high, i + 1, true, false)})), ++first;
    if (at_high) parts.push_back(ast_.seq({digit(to, to), same_length(low, high, i + 1, false, true)})), --last;
    if (first <= last) parts.push_back(ast_.seq({digit(first, last), same_length(low, high, i + 1, false, false)}));
    return ast_.alt(std::move(parts));
  }

  struct FractionBounds {
    const std::string* low = nullptr;  // null: none
    const std::string* high = nullptr;
    bool low_exclusive = false, high_exclusive = false;
  };

  // Digits of a fraction from position i on, or nothing more, while the earlier ones equal low's and high's.
  Node fraction(const FractionBounds& b, size_t i) {
    std::vector<Node> parts;
    if (may_stop(b, i)) parts.push_back(ast_.empty());
    if (i < static_cast<size_t>(kFractionDigits)) {
      const char from = b.low && i < b.low->size() ? (*b.low)[i] : '0';
      const char to = !b.high ? '9' : i < b.high->size() ? (*b.high)[i] : '0';
      if (!b.low && !b.high) return digits(0, kFractionDigits - static_cast<int>(i));
      for (char c = from; c <= to; ++c) {
        FractionBounds rest = b;
        if (c > from) rest.low = nullptr;
        if (c < to) rest.high = nullptr;
        // Digits in the middle go the same way: one edge for all of them.
        const bool middle = !rest.low && !rest.high;
        char last = c;
        while (middle && last + 1 < to + (b.high ? 0 : 1)) ++last;
        parts.push_back(ast_.seq({digit(c, last), fraction(rest, i + 1)}));
        c = last;
      }
    }
    return ast_.alt(std::move(parts));
  }

  // The point and a fraction, or neither.
  Node tail(const FractionBounds& b) {
    std::vector<Node> parts;
    if (may_stop(b, 0)) parts.push_back(ast_.empty());
    // At least one digit: the same choices without stopping at once.
    parts.push_back(ast_.seq({ast_.bytes("."), first_digit(b)}));
    return ast_.alt(std::move(parts));
  }

 private:
  Node first_digit(const FractionBounds& b) {
    std::vector<Node> parts;
    for (char c = '0'; c <= '9'; ++c) {
      FractionBounds rest = b;
      const char from = b.low && !b.low->empty() ? (*b.low)[0] : '0';
      const char to = !b.high ? '9' : b.high->empty() ? '0' : (*b.high)[0];
      if (c < from || c > to) continue;
      if (c > from) rest.low = nullptr;
      if (c < to) rest.high = nullptr;
      parts.push_back(ast_.seq({digit(c, c), fraction(rest, 1)}));
    }
    return ast_.alt(std::move(parts));
  }

  // Whether a fraction may end before position i, the digits before it being equal to the bounds' that are set.
  static bool may_stop(const FractionBounds& b, size_t i) {
    if (b.low && (i < b.low->size() || b.low_exclusive)) return false;
    if (b.high && i >= b.high->size() && b.high_exclusive) return false;
    return true;
  }

  GrammarAst& ast_;
};

// Numbers >= 0 from low to high (null: none); `whole_only` for integers.
struct Span {
  std::optional<Decimal> low, high;
  bool low_exclusive = false, high_exclusive = false;
};

// The digits of n + delta, delta being 1 or -1. REQUIRES n > 0 for -1.
std::string stepped(std::string n, int delta) {
  const char full = delta > 0 ? '9' : '0', wrapped = delta > 0 ? '0' : '9';
  size_t i = n.size();
  while (i > 0 && n[i - 1] == full) n[--i] = wrapped;
  if (i == 0) return n.insert(0, 1, '1');
  n[i - 1] = static_cast<char>(n[i - 1] + delta);
  if (n.size() > 1 && n[0] == '0') n.erase(0, 1);
  return n;
}

Node whole_span(GrammarAst& ast, Builder& build, const Span& s) {
  std::string low = "0", high(kDigits, '9');
  if (s.low) {
    low = s.low->whole;
    if (!s.low->fraction.empty() || s.low_exclusive) low = stepped(low, 1);
  }
  if (s.high) {
    high = s.high->whole;
    if (s.high->fraction.empty() && s.high_exclusive) {
      if (high == "0") return ast.nothing();
      high = stepped(high, -1);
    }
  }
  return compare(low, high) <= 0 ? build.whole_between(low, high) : ast.nothing();
}

Node number_span(GrammarAst& ast, Builder& build, const Span& s) {
  const std::string low = s.low ? s.low->whole : "0";
  const std::string high = s.high ? s.high->whole : std::string(kDigits, '9');
  const int order = compare(low, high);
  if (order > 0) return ast.nothing();
  Builder::FractionBounds at_low{.low = s.low ? &s.low->fraction : nullptr, .low_exclusive = s.low_exclusive};
  Builder::FractionBounds at_high{.high = s.high ? &s.high->fraction : nullptr, .high_exclusive = s.high_exclusive};
  if (order == 0) {
    at_low.high = at_high.high;
    at_low.high_exclusive = at_high.high_exclusive;
    const std::string none;
    if (at_low.low && at_low.high && *at_low.low > *at_low.high) return ast.nothing();
    return ast.seq({ast.bytes(low), build.tail(at_low)});
  }
  std::vector<Node> parts{ast.seq({ast.bytes(low), build.tail(at_low)}),
                          ast.seq({ast.bytes(high), build.tail(at_high)})};
  const std::string first = stepped(low, 1), last = stepped(high, -1);
  if (compare(first, last) <= 0) parts.push_back(ast.seq({build.whole_between(first, last), build.any_fraction()}));
  return ast.alt(std::move(parts));
}

std::optional<Decimal> checked(const std::optional<NumberBound>& bound, const std::string& path) {
  if (!bound) return std::nullopt;
  Decimal d = decimal(bound->value);
  if (d.whole.size() > static_cast<size_t>(kDigits)) {
    fail(ErrorCode::kUnsupported, "{}: the bound {} has more than {} digits before the point", path,
         bound->value.dump(), kDigits);
  }
  if (d.fraction.size() > static_cast<size_t>(kFractionDigits)) {
    fail(ErrorCode::kUnsupported, "{}: the bound {} has more than {} digits after the point", path, bound->value.dump(),
         kFractionDigits);
  }
  return d;
}

template <class F>
Node both_signs(GrammarAst& ast, const std::optional<NumberBound>& low, const std::optional<NumberBound>& high,
                const std::string& path, F&& span) {
  const std::optional<Decimal> from = checked(low, path), to = checked(high, path);
  const bool from_exclusive = low && low->exclusive, to_exclusive = high && high->exclusive;
  std::vector<Node> parts;
  if (!to || !to->negative) {  // from max(low, 0)
    Span s{.high = to, .high_exclusive = to_exclusive};
    if (from && !from->negative) s.low = from, s.low_exclusive = from_exclusive;
    parts.push_back(span(s));
  }
  if (!from || from->negative) {  // -y, y more than 0
    Span s{.low = Decimal{}, .low_exclusive = true, .high_exclusive = false};
    if (from) s.high = from, s.high_exclusive = from_exclusive;
    if (to && to->negative) s.low = to, s.low_exclusive = to_exclusive;
    parts.push_back(ast.seq({ast.bytes("-"), span(s)}));
  }
  return ast.alt(std::move(parts));
}

}  // namespace

Node integer_node(GrammarAst& ast, const std::optional<NumberBound>& low, const std::optional<NumberBound>& high,
                  const std::string& path) {
  Builder build(ast);
  if (!low && !high) return ast.seq({ast.optional(ast.bytes("-")), build.any_whole()});
  return both_signs(ast, low, high, path, [&](const Span& s) { return whole_span(ast, build, s); });
}

Node number_node(GrammarAst& ast, const std::optional<NumberBound>& low, const std::optional<NumberBound>& high,
                 const std::string& path) {
  Builder build(ast);
  if (low || high) return both_signs(ast, low, high, path, [&](const Span& s) { return number_span(ast, build, s); });
  const Node exponent = ast.seq(
      {ast.chars({{'e', 'e'}, {'E', 'E'}}), ast.optional(ast.chars({{'+', '+'}, {'-', '-'}})), build.digits(1, 2)});
  return ast.seq({ast.optional(ast.bytes("-")), build.any_whole(), build.any_fraction(), ast.optional(exponent)});
}

}  // namespace tessera
