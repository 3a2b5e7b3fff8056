#include "text/grammar_ast.h"

#include <algorithm>

#include "core/error.h"

namespace tessera {

namespace {

constexpr char32_t kLastCode = 0x10FFFF;

void add_without_surrogates(std::vector<CodeRange>& out, char32_t first, char32_t last) {
  last = std::min(last, kLastCode);
  if (first > last) return;
  if (first < 0xD800) out.push_back({first, std::min<char32_t>(last, 0xD7FF)});
  if (last > 0xDFFF) out.push_back({std::max<char32_t>(first, 0xE000), last});
}

}  // namespace

std::vector<CodeRange> normalize_ranges(std::vector<CodeRange> ranges) {
  std::vector<CodeRange> valid;
  for (const CodeRange& r : ranges) add_without_surrogates(valid, r.first, r.last);
  std::sort(valid.begin(), valid.end());
  std::vector<CodeRange> out;
  for (const CodeRange& r : valid) {
    const bool joins = !out.empty() && r.first <= out.back().last + 1;
    if (joins) {
      out.back().last = std::max(out.back().last, r.last);
    } else {
      out.push_back(r);
    }
  }
  return out;
}

std::vector<CodeRange> complement_ranges(const std::vector<CodeRange>& ranges) {
  std::vector<CodeRange> out;
  char32_t next = 0;
  for (const CodeRange& r : ranges) {
    if (r.first > next) out.push_back({next, r.first - 1});
    next = r.last + 1;
  }
  if (next <= kLastCode) out.push_back({next, kLastCode});
  return normalize_ranges(std::move(out));
}

GrammarAst::Node GrammarAst::add(Expr expr) {
  if (exprs_.size() >= kMaxNodes)
    fail(ErrorCode::kUnsupported, "the grammar has more than {} parts; make it smaller", kMaxNodes);
  exprs_.push_back(std::move(expr));
  return static_cast<Node>(exprs_.size()) - 1;
}

GrammarAst::Node GrammarAst::bytes(std::string text) {
  Expr e{.op = Op::kBytes};
  e.bytes = std::move(text);
  return add(std::move(e));
}

GrammarAst::Node GrammarAst::chars(std::vector<CodeRange> ranges) {
  Expr e{.op = Op::kChars};
  e.ranges = normalize_ranges(std::move(ranges));
  return add(std::move(e));
}

GrammarAst::Node GrammarAst::seq(std::vector<Node> parts) {
  if (parts.size() == 1) return parts[0];
  Expr e{.op = Op::kSeq};
  e.children = std::move(parts);
  return add(std::move(e));
}

GrammarAst::Node GrammarAst::alt(std::vector<Node> parts) {
  if (parts.size() == 1) return parts[0];
  Expr e{.op = Op::kAlt};
  e.children = std::move(parts);
  return add(std::move(e));
}

GrammarAst::Node GrammarAst::repeat(Node part, int32_t min, int32_t max) {
  TS_CHECK(min >= 0 && (max == kUnbounded || max >= min));
  if (std::max(min, max) > kMaxRepeat)
    fail(ErrorCode::kUnsupported, "a repetition counts to {}; at most {} is supported", std::max(min, max), kMaxRepeat);
  if (max == 0) return empty();
  if (min == 1 && max == 1) return part;
  Expr e{.op = Op::kRepeat, .min = min, .max = max};
  e.children = {part};
  return add(std::move(e));
}

GrammarAst::Node GrammarAst::counted(Node part, int32_t min, int32_t max) {
  Expr e{.op = Op::kRepeat, .min = min, .max = max};
  e.children = {part};
  e.counted = true;
  return add(std::move(e));
}

GrammarAst::Node GrammarAst::call(int32_t rule) {
  return add({.op = Op::kCall, .min = rule});
}

GrammarAst::Node GrammarAst::token(int32_t id) {
  return add({.op = Op::kToken, .min = id});
}

GrammarAst::Node GrammarAst::text_without(std::vector<std::string> texts) {
  Expr e{.op = Op::kTextWithout};
  e.texts = std::move(texts);
  return add(std::move(e));
}

GrammarAst::Node GrammarAst::members(const std::vector<std::pair<Node, Member>>& members, Node separator) {
  Expr e{.op = Op::kMembers};
  for (const auto& [node, kind] : members) {
    e.children.push_back(node);
    e.bytes += static_cast<char>(kind);
  }
  e.children.push_back(separator);
  return add(std::move(e));
}

int32_t GrammarAst::add_rule(std::string name) {
  rules_.push_back({.name = std::move(name)});
  return static_cast<int32_t>(rules_.size()) - 1;
}

}  // namespace tessera
