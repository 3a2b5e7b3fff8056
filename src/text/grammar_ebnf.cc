#include "text/grammar_ebnf.h"

#include <algorithm>
#include <map>
#include <string>

#include "core/error.h"
#include "text/grammar_regex.h"
#include "text/utf8.h"

namespace tessera {

namespace {

constexpr int kMaxNesting = 100;

bool is_name(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.';
}
bool starts_name(char c) {
  return is_name(c) && c != '.';
}

class Reader {
 public:
  Reader(GrammarAst& ast, std::string_view text) : ast_(ast), text_(text) {}

  int32_t read() {
    skip();
    while (more()) {
      const std::string name = read_name();
      skip();
      if (!take("::=")) error(fmt::format("expected '::=' after the rule's name \"{}\"", name));
      const int32_t rule = rule_named(name, at_);
      if (rules_[name].defined) error(fmt::format("the rule \"{}\" is defined twice", name));
      rules_[name].defined = true;
      skip();
      ast_.define(rule, alternatives(0));
      skip();
      if (more() && !starts_name(peek())) error(fmt::format("'{}' is not expected here", peek()));
    }
    for (const auto& [name, rule] : rules_) {
      if (rule.defined) continue;
      at_ = rule.used_at;
      error(fmt::format("the rule \"{}\" is used and not defined", name));
    }
    if (!rules_.contains("root")) fail(ErrorCode::kInvalidArgument, "the grammar has no rule \"root\"");
    return rules_["root"].rule;
  }

 private:
  using Node = GrammarAst::Node;
  struct Named {
    int32_t rule = -1;
    bool defined = false;
    size_t used_at = 0;
  };

  bool more() const { return at_ < text_.size(); }
  char peek() const { return more() ? text_[at_] : '\0'; }
  bool take(std::string_view what) {
    if (!text_.substr(at_).starts_with(what)) return false;
    at_ += what.size();
    return true;
  }
  [[noreturn]] void error(const std::string& what) const {
    const auto line =
        std::count(text_.begin(), text_.begin() + static_cast<long>(std::min(at_, text_.size())), '\n') + 1;
    fail(ErrorCode::kInvalidArgument, "line {} of the grammar: {}", line, what);
  }

  void skip() {
    while (more()) {
      if (peek() == '#') {
        while (more() && peek() != '\n') ++at_;
      } else if (peek() == ' ' || peek() == '\t' || peek() == '\n' || peek() == '\r') {
        ++at_;
      } else {
        return;
      }
    }
  }

  std::string read_name() {
    const size_t begin = at_;
    while (more() && is_name(peek())) ++at_;
    if (at_ == begin) error("expected a rule's name");
    return std::string(text_.substr(begin, at_ - begin));
  }

  int32_t rule_named(const std::string& name, size_t where) {
    Named& named = rules_[name];
    if (named.rule < 0) named = {.rule = ast_.add_rule(name), .used_at = where};
    return named.rule;
  }

  bool at_definition() {
    const size_t begin = at_;
    while (more() && is_name(peek())) ++at_;
    const bool named = at_ > begin;
    skip();
    const bool result = named && text_.substr(at_).starts_with("::=");
    at_ = begin;
    return result;
  }

  Node alternatives(int depth) {
    if (depth > kMaxNesting) error("parentheses nest too deep");
    std::vector<Node> parts;
    for (;;) {
      parts.push_back(sequence(depth));
      skip();
      if (!take("|")) return ast_.alt(std::move(parts));
      skip();
    }
  }

  Node sequence(int depth) {
    std::vector<Node> parts;
    for (;;) {
      skip();
      const char c = peek();
      if (!more() || c == '|' || c == ')') break;
      if (starts_name(c) && at_definition()) break;
      parts.push_back(repeated(depth));
    }
    return ast_.seq(std::move(parts));
  }

  Node repeated(int depth) {
    Node node = atom(depth);
    for (;;) {
      if (take("*")) {
        node = ast_.repeat(node, 0, GrammarAst::kUnbounded);
      } else if (take("+")) {
        node = ast_.repeat(node, 1, GrammarAst::kUnbounded);
      } else if (take("?")) {
        node = ast_.optional(node);
      } else if (take("{")) {
        const int32_t min = number();
        int32_t max = min;
        skip();
        if (take(",")) {
          skip();
          max = peek() == '}' ? GrammarAst::kUnbounded : number();
        }
        skip();
        if (!take("}")) error("a count must look like {2}, {2,} or {2,5}");
        if (max != GrammarAst::kUnbounded && max < min) error("a count's maximum is less than its minimum");
        node = ast_.repeat(node, min, max);
      } else {
        return node;
      }
    }
  }

  int32_t number() {
    skip();
    if (peek() < '0' || peek() > '9') error("a count must look like {2}, {2,} or {2,5}");
    int64_t value = 0;
    while (peek() >= '0' && peek() <= '9') value = std::min<int64_t>(value * 10 + (text_[at_++] - '0'), 1 << 30);
    if (value > GrammarAst::kMaxRepeat) error("a count above 100000");
    return static_cast<int32_t>(value);
  }

  Node atom(int depth) {
    const char c = peek();
    if (c == '"' || c == '\'') return literal(c);
    if (c == '[') {
      ClassReader in{text_, at_ + 1};
      std::vector<CodeRange> ranges = guarded([&] { return in.read(); });
      at_ = in.at;
      return ast_.chars(std::move(ranges));
    }
    if (c == '(') {
      ++at_;
      const Node node = alternatives(depth + 1);
      skip();
      if (!take(")")) error("'(' without ')'");
      return node;
    }
    if (c == '.') {
      ++at_;
      return ast_.chars({{0, 0x10FFFF}});
    }
    if (starts_name(c)) {
      const size_t where = at_;
      return ast_.call(rule_named(read_name(), where));
    }
    error(fmt::format("'{}' is not expected here", c));
  }

  Node literal(char quote) {
    ClassReader in{text_, at_ + 1};
    std::string out;
    for (;;) {
      if (in.at >= text_.size() || text_[in.at] == '\n') error("a literal without its closing quote");
      if (text_[in.at] == quote) break;
      if (text_[in.at] != '\\') {
        utf8_append(out, in.next_code());
        continue;
      }
      ++in.at;
      const std::vector<CodeRange> code = guarded([&] { return in.escape(true); });
      if (code.size() != 1 || code[0].first != code[0].last) error("a literal cannot hold a class of characters");
      utf8_append(out, code[0].first);
    }
    at_ = in.at + 1;
    return ast_.bytes(std::move(out));
  }

  // Errors of classes and escapes with the line instead of the whole text.
  template <class F>
  std::vector<CodeRange> guarded(F&& read) {
    try {
      return read();
    } catch (const Error& e) {
      const std::string_view what = e.what();
      error(std::string(what.substr(0, what.find(", at byte"))));
    }
  }

  GrammarAst& ast_;
  std::string_view text_;
  size_t at_ = 0;
  std::map<std::string, Named> rules_;
};

}  // namespace

int32_t ebnf_rules(GrammarAst& ast, std::string_view text) {
  if (!utf8_is_valid(text)) fail(ErrorCode::kInvalidArgument, "the grammar is not valid UTF-8");
  return Reader(ast, text).read();
}

}  // namespace tessera
