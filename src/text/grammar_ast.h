// A grammar as its authors wrote it: rules made of expressions over bytes, characters and special tokens. Built by the
// readers of JSON schema, regex and EBNF, and by the api for whole replies; read by grammar_program.cc. Not
// thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace tessera {

struct CodeRange {
  char32_t first = 0, last = 0;
  auto operator<=>(const CodeRange&) const = default;
};

// Sorted, disjoint, merged, without surrogates.
std::vector<CodeRange> normalize_ranges(std::vector<CodeRange> ranges);
// All other Unicode scalar values. REQUIRES normalized ranges.
std::vector<CodeRange> complement_ranges(const std::vector<CodeRange>& ranges);

class GrammarAst {
 public:
  using Node = int32_t;
  static constexpr int kUnbounded = -1;
  static constexpr size_t kMaxNodes = 200000;
  static constexpr int kMaxRepeat = 100000;  // the largest count of a repetition

  enum class Op : uint8_t { kBytes, kChars, kSeq, kAlt, kRepeat, kCall, kToken, kTextWithout, kMembers };
  struct Expr {
    Op op;
    int32_t min = 0, max = 0;        // kRepeat; kCall: the rule; kToken: the id
    std::vector<Node> children;      // kSeq, kAlt, kRepeat; kMembers: members, separator
    std::string bytes;               // kBytes; kMembers: a kind for each member
    bool counted = false;            // kRepeat
    std::vector<CodeRange> ranges;   // kChars, normalized
    std::vector<std::string> texts;  // kTextWithout
  };
  struct Rule {
    std::string name;
    Node body = -1;
    bool json = false;        // a JSON value: only white space, commas, colons and brackets follow it
    bool any_length = false;  // has one counted loop, whose bounds do not matter for sharing masks
    bool apart = false;       // called even where it could be inlined, so that grammars share its masks
    std::string place;        // where a request has it: a grammar in which it matches nothing is refused by this name
  };

  // All throw kUnsupported when the grammar has more than kMaxNodes nodes.
  Node empty() { return seq({}); }
  Node nothing() { return alt({}); }  // matches no text at all
  Node bytes(std::string text);
  Node chars(std::vector<CodeRange> ranges);  // one character, as UTF-8
  Node seq(std::vector<Node> parts);
  Node alt(std::vector<Node> parts);
  Node repeat(Node part, int32_t min, int32_t max);  // max may be kUnbounded
  // The same, counted however small the counts: repetitions of different lengths are then the same automaton.
  Node counted(Node part, int32_t min, int32_t max);
  Node optional(Node part) { return repeat(part, 0, 1); }
  Node call(int32_t rule);
  Node token(int32_t id);
  // Any bytes that contain none of the texts.
  Node text_without(std::vector<std::string> texts);

  // Members in this order with separators between them. Its size is that of its parts, however many may be left out.
  enum class Member : char { kRequired = '1', kOptional = '?', kRepeated = '*' };
  Node members(const std::vector<std::pair<Node, Member>>& members, Node separator);

  int32_t add_rule(std::string name);
  void define(int32_t rule, Node body) { rules_[static_cast<size_t>(rule)].body = body; }
  Rule& rule(int32_t id) { return rules_[static_cast<size_t>(id)]; }
  const Rule& rule(int32_t id) const { return rules_[static_cast<size_t>(id)]; }
  int32_t rule_count() const { return static_cast<int32_t>(rules_.size()); }
  const Expr& expr(Node node) const { return exprs_[static_cast<size_t>(node)]; }

  int32_t root = 0;

 private:
  Node add(Expr expr);

  std::vector<Expr> exprs_;
  std::vector<Rule> rules_;
};

}  // namespace tessera
