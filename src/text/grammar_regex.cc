#include "text/grammar_regex.h"

#include <utf8proc.h>

#include <algorithm>

#include "core/error.h"
#include "text/utf8.h"

namespace tessera {

namespace {

constexpr int kMaxNesting = 100;

const std::vector<CodeRange> kDigits = {{'0', '9'}};
const std::vector<CodeRange> kWord = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
const std::vector<CodeRange> kSpace = {{'\t', '\r'}, {' ', ' '}};

std::vector<CodeRange> category_ranges(std::string_view name) {
  std::vector<CodeRange> out;
  for (char32_t code = 0; code <= 0x10FFFF; ++code) {
    const std::string_view category = utf8proc_category_string(static_cast<utf8proc_int32_t>(code));
    if (!category.starts_with(name)) continue;
    if (!out.empty() && out.back().last + 1 == code) {
      out.back().last = code;
    } else {
      out.push_back({code, code});
    }
  }
  return normalize_ranges(std::move(out));
}

bool known_category(std::string_view name) {
  static constexpr std::string_view kNames[] = {"L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me", "N",
                                                "Nd", "Nl", "No", "P",  "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po",
                                                "S",  "Sm", "Sc", "Sk", "So", "Z",  "Zs", "Zl", "Zp"};
  return std::find(std::begin(kNames), std::end(kNames), name) != std::end(kNames);
}

class Reader {
 public:
  Reader(GrammarAst& ast, std::string_view pattern, const RegexOptions& options)
      : ast_(ast), in_{pattern}, options_(options) {}

  RegexNode read() {
    RegexNode node = alternatives(0, true);
    if (in_.at < in_.text.size()) in_.error("')' without '('");
    return node;
  }

 private:
  using Node = GrammarAst::Node;

  bool more() const { return in_.at < in_.text.size(); }
  char peek() const { return more() ? in_.text[in_.at] : '\0'; }
  bool take(std::string_view text) {
    if (!in_.text.substr(in_.at).starts_with(text)) return false;
    in_.at += text.size();
    return true;
  }

  Node one_of(const std::vector<CodeRange>& ranges) {
    return options_.json ? json_chars(ast_, ranges) : ast_.chars(ranges);
  }
  Node anything() {
    const Node one = options_.json ? json_any_char(ast_) : ast_.chars({{0, 0x10FFFF}});
    return ast_.repeat(one, 0, GrammarAst::kUnbounded);
  }

  // `outer`: not in a group, so that ^ and $ may stand at the ends.
  RegexNode alternatives(int depth, bool outer) {
    if (depth > kMaxNesting) in_.error("groups nest too deep");
    std::vector<Node> parts;
    RegexNode out{.node = 0, .shortest = RegexNode::kUnboundedLength, .longest = 0};
    do {
      const RegexNode part = sequence(depth, outer);
      parts.push_back(part.node);
      out.shortest = std::min(out.shortest, part.shortest);
      out.longest = std::max(out.longest, part.longest);
    } while (take("|"));
    out.node = ast_.alt(std::move(parts));
    return out;
  }

  RegexNode sequence(int depth, bool outer) {
    std::vector<Node> parts;
    RegexNode out{.node = 0};
    bool at_start = false, at_end = false;
    auto add = [&](const RegexNode& part) {
      parts.push_back(part.node);
      out.shortest = std::min(out.shortest + part.shortest, RegexNode::kUnboundedLength);
      out.longest = std::min(out.longest + part.longest, RegexNode::kUnboundedLength);
    };
    if (outer)
      while (take("^")) at_start = true;
    if (outer && !options_.anchored && !at_start) add({anything(), 0, RegexNode::kUnboundedLength});
    while (more() && peek() != '|' && peek() != ')') {
      if (outer && peek() == '$') {
        while (take("$")) at_end = true;
        if (more() && peek() != '|') in_.error("'$' is supported at the end only");
        break;
      }
      add(repeated(depth));
    }
    if (outer && !options_.anchored && !at_end) add({anything(), 0, RegexNode::kUnboundedLength});
    out.node = ast_.seq(std::move(parts));
    return out;
  }

  RegexNode repeated(int depth) {
    RegexNode node = atom(depth);
    for (bool first = true;; first = false) {
      int32_t min = 0, max = GrammarAst::kUnbounded;
      if (take("*")) {
      } else if (take("+")) {
        min = 1;
      } else if (take("?")) {
        max = 1;
      } else if (peek() == '{') {
        ++in_.at;
        counts(min, max);
      } else {
        return node;
      }
      if (!first) in_.error("a repetition of a repetition");
      if (!take("?") && peek() == '+') in_.error("possessive repetitions are not supported");
      node.shortest = std::min(node.shortest * min, RegexNode::kUnboundedLength);
      node.longest = node.longest == 0               ? 0
                     : max == GrammarAst::kUnbounded ? RegexNode::kUnboundedLength
                                                     : std::min(node.longest * max, RegexNode::kUnboundedLength);
      node.node = ast_.repeat(node.node, min, max);
    }
  }

  void counts(int32_t& min, int32_t& max) {
    auto number = [&]() -> int32_t {
      if (peek() < '0' || peek() > '9') in_.error("a count must look like {2}, {2,} or {2,5}; write \\{ for a brace");
      int64_t value = 0;
      while (peek() >= '0' && peek() <= '9')
        value = std::min<int64_t>(value * 10 + (in_.text[in_.at++] - '0'), 1 << 30);
      if (value > GrammarAst::kMaxRepeat) in_.error("a count above 100000");
      return static_cast<int32_t>(value);
    };
    min = number();
    max = min;
    if (take(",")) max = peek() == '}' ? GrammarAst::kUnbounded : number();
    if (!take("}")) in_.error("a count must look like {2}, {2,} or {2,5}");
    if (max != GrammarAst::kUnbounded && max < min) in_.error("a count's maximum is less than its minimum");
  }

  RegexNode atom(int depth) {
    const char c = peek();
    switch (c) {
      case '(':
        ++in_.at;
        return group(depth);
      case '[': {
        ++in_.at;
        return {one_of(in_.read()), 1, 1};
      }
      case '.':
        ++in_.at;
        return {one_of(complement_ranges(normalize_ranges({{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}}))), 1, 1};
      case '\\':
        ++in_.at;
        return {one_of(normalize_ranges(in_.escape(false))), 1, 1};
      case '*':
      case '+':
      case '?':
        in_.error("nothing to repeat");
      case '^':
        in_.error("'^' is supported at the start only");
      case '$':
        in_.error("'$' is supported at the end only");
      default: {
        const char32_t code = in_.next_code();
        return {one_of({{code, code}}), 1, 1};
      }
    }
  }

  RegexNode group(int depth) {
    if (take("?")) {
      if (peek() == '=' || peek() == '!') in_.error("look-ahead is not supported");
      if (in_.text.substr(in_.at).starts_with("<=") || in_.text.substr(in_.at).starts_with("<!"))
        in_.error("look-behind is not supported");
      if (take("P<") || take("<")) {
        while (more() && peek() != '>') ++in_.at;
        if (!take(">")) in_.error("a group's name without '>'");
      } else if (!take(":")) {
        in_.error("this kind of group is not supported");
      }
    }
    const RegexNode node = alternatives(depth + 1, false);
    if (!take(")")) in_.error("'(' without ')'");
    return node;
  }

  GrammarAst& ast_;
  ClassReader in_;
  const RegexOptions options_;
};

}  // namespace

void ClassReader::error(const char* what) const {
  fail(ErrorCode::kInvalidArgument, "{}, at byte {} of \"{}\"", what, at,
       text.size() > 80 ? fmt::format("{}...", text.substr(0, 77)) : std::string(text));
}

char32_t ClassReader::next_code() {
  if (at >= text.size()) error("the text ends too early");
  const char32_t code = utf8_front(text.substr(at));
  at += static_cast<size_t>(utf8_length(text[at]));
  return code;
}

char32_t ClassReader::hex(int digits) {
  char32_t value = 0;
  for (int i = 0; i < digits; ++i) {
    const char c = at < text.size() ? text[at++] : '\0';
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                             : -1;
    if (digit < 0) error("a hexadecimal digit is missing");
    value = value * 16 + static_cast<char32_t>(digit);
  }
  return value;
}

std::vector<CodeRange> ClassReader::escape(bool in_class) {
  const char32_t c = next_code();
  switch (c) {
    case 'd':
      return kDigits;
    case 'D':
      return complement_ranges(kDigits);
    case 'w':
      return kWord;
    case 'W':
      return complement_ranges(kWord);
    case 's':
      return kSpace;
    case 'S':
      return complement_ranges(kSpace);
    case 'n':
      return {{'\n', '\n'}};
    case 'r':
      return {{'\r', '\r'}};
    case 't':
      return {{'\t', '\t'}};
    case 'f':
      return {{'\f', '\f'}};
    case 'v':
      return {{'\v', '\v'}};
    case '0':
      return {{0, 0}};
    case 'x': {
      const char32_t code = hex(2);
      return {{code, code}};
    }
    case 'U':
    case 'u': {
      char32_t code = 0;
      if (c == 'u' && at < text.size() && text[at] == '{') {
        ++at;
        int digits = 0;
        while (at < text.size() && text[at] != '}' && digits < 6) code = code * 16 + hex(1), ++digits;
        if (digits == 0 || at >= text.size() || text[at++] != '}') error("\\u{...} holds 1 to 6 hexadecimal digits");
      } else {
        code = hex(c == 'U' ? 8 : 4);
        const bool pair = code >= 0xD800 && code <= 0xDBFF && text.substr(at).starts_with("\\u");
        if (pair) {
          at += 2;
          code = 0x10000 + ((code - 0xD800) << 10) + ((hex(4) - 0xDC00) & 0x3FF);
        }
      }
      if (code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) error("no such character");
      return {{code, code}};
    }
    case 'p':
    case 'P': {
      if (at >= text.size() || text[at] != '{') error("\\p must look like \\p{L}");
      const size_t close = text.find('}', at);
      if (close == std::string_view::npos) error("\\p must look like \\p{L}");
      const std::string_view name = text.substr(at + 1, close - at - 1);
      if (!known_category(name)) error("only general categories such as \\p{L}, \\p{Lu} or \\p{Nd} are supported");
      at = close + 1;
      std::vector<CodeRange> ranges = category_ranges(name);
      return c == 'P' ? complement_ranges(ranges) : ranges;
    }
    case 'b':
      if (in_class) return {{'\b', '\b'}};
      error("word boundaries are not supported");
    case 'B':
      error("word boundaries are not supported");
    default:
      if (c >= '1' && c <= '9') error("back-references are not supported");
      if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) error("this escape is not supported");
      return {{c, c}};
  }
}

std::vector<CodeRange> ClassReader::read() {
  const bool negated = at < text.size() && text[at] == '^';
  if (negated) ++at;
  std::vector<CodeRange> ranges;
  for (bool first = true;; first = false) {
    if (at >= text.size()) error("'[' without ']'");
    if (text[at] == ']' && !first) break;
    if (text[at] == ']' && first) {  // an empty class, as in ECMAScript
      break;
    }
    auto one = [&]() -> std::vector<CodeRange> {
      if (text[at] == '\\') {
        ++at;
        return escape(true);
      }
      const char32_t code = next_code();
      return {{code, code}};
    };
    std::vector<CodeRange> low = one();
    const bool range = at + 1 < text.size() && text[at] == '-' && text[at + 1] != ']';
    const bool single = low.size() == 1 && low[0].first == low[0].last;
    if (range && single) {
      ++at;
      const std::vector<CodeRange> high = one();
      if (high.size() != 1 || high[0].first != high[0].last) error("a range must end in a character");
      if (high[0].first < low[0].first) error("a range's end is before its start");
      ranges.push_back({low[0].first, high[0].first});
    } else {
      ranges.insert(ranges.end(), low.begin(), low.end());
    }
    if (ranges.size() > 10000) error("a class with more than 10000 parts");
  }
  ++at;
  ranges = normalize_ranges(std::move(ranges));
  return negated ? complement_ranges(ranges) : ranges;
}

GrammarAst::Node json_chars(GrammarAst& ast, const std::vector<CodeRange>& ranges) {
  static constexpr std::pair<char, const char*> kShort[] = {{'"', "\\\""}, {'\\', "\\\\"}, {'\b', "\\b"}, {'\f', "\\f"},
                                                            {'\n', "\\n"}, {'\r', "\\r"},  {'\t', "\\t"}};
  auto contains = [&](char32_t code) {
    return std::any_of(ranges.begin(), ranges.end(),
                       [&](const CodeRange& r) { return code >= r.first && code <= r.last; });
  };
  std::vector<GrammarAst::Node> parts;
  std::vector<CodeRange> plain;
  for (const CodeRange& r : ranges) {
    char32_t first = std::max<char32_t>(r.first, 0x20);
    for (char32_t special : {char32_t{'"'}, char32_t{'\\'}}) {
      if (first > r.last || special < first || special > r.last) continue;
      if (special > first) plain.push_back({first, special - 1});
      first = special + 1;
    }
    if (first <= r.last) plain.push_back({first, r.last});
  }
  if (!plain.empty()) parts.push_back(ast.chars(std::move(plain)));
  for (const auto& [code, text] : kShort)
    if (contains(static_cast<char32_t>(static_cast<unsigned char>(code)))) parts.push_back(ast.bytes(text));
  for (char32_t code = 0; code < 0x20; ++code) {
    const bool has_short = code == '\b' || code == '\f' || code == '\n' || code == '\r' || code == '\t';
    if (!has_short && contains(code)) parts.push_back(ast.bytes(fmt::format("\\u{:04x}", static_cast<uint32_t>(code))));
  }
  return ast.alt(std::move(parts));
}

GrammarAst::Node json_any_char(GrammarAst& ast) {
  const std::vector<CodeRange> hex = {{'0', '9'}, {'A', 'F'}, {'a', 'f'}};
  auto digits = [&](int count) { return ast.repeat(ast.chars(hex), count, count); };
  const GrammarAst::Node plain = ast.chars({{0x20, '!'}, {'#', '['}, {']', 0x10FFFF}});
  const GrammarAst::Node simple =
      ast.chars({{'"', '"'}, {'\\', '\\'}, {'/', '/'}, {'b', 'b'}, {'f', 'f'}, {'n', 'n'}, {'r', 'r'}, {'t', 't'}});
  // No half of a surrogate pair without the other.
  const GrammarAst::Node d = ast.chars({{'D', 'D'}, {'d', 'd'}});
  const GrammarAst::Node low = ast.seq({ast.bytes("\\u"), d, ast.chars({{'C', 'F'}, {'c', 'f'}}), digits(2)});
  const GrammarAst::Node code =
      ast.alt({ast.seq({ast.chars({{'0', '9'}, {'A', 'C'}, {'E', 'F'}, {'a', 'c'}, {'e', 'f'}}), digits(3)}),
               ast.seq({d, ast.chars({{'0', '7'}}), digits(2)}),
               ast.seq({d, ast.chars({{'8', '9'}, {'A', 'B'}, {'a', 'b'}}), digits(2), low})});
  return ast.alt({plain, ast.seq({ast.bytes("\\"), ast.alt({simple, ast.seq({ast.bytes("u"), code})})})});
}

RegexNode regex_node(GrammarAst& ast, std::string_view pattern, const RegexOptions& options) {
  if (!utf8_is_valid(pattern)) fail(ErrorCode::kInvalidArgument, "the pattern is not valid UTF-8");
  return Reader(ast, pattern, options).read();
}

}  // namespace tessera
