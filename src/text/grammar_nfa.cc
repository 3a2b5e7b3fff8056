#include "text/grammar_nfa.h"

#include <algorithm>
#include <array>
#include <map>
#include <utility>

#include "core/error.h"
#include "text/utf8.h"

namespace tessera {

namespace {

constexpr size_t kMaxNfaStates = 300000;
constexpr size_t kMaxSteps = 1000000;  // parts built, repetitions of nothing included

using ByteRange = std::pair<uint8_t, uint8_t>;
using ByteRanges = std::vector<ByteRange>;

// The characters of a range as sequences of byte ranges.
void split_utf8(char32_t first, char32_t last, std::vector<ByteRanges>& out) {
  for (char32_t limit : {char32_t{0x7F}, char32_t{0x7FF}, char32_t{0xFFFF}}) {
    if (first <= limit && last > limit) {
      split_utf8(first, limit, out);
      return split_utf8(limit + 1, last, out);
    }
  }
  const int length = first < 0x80 ? 1 : first < 0x800 ? 2 : first < 0x10000 ? 3 : 4;
  for (int tail = 1; tail < length; ++tail) {
    const char32_t mask = (char32_t{1} << (6 * tail)) - 1;
    if ((first & ~mask) == (last & ~mask)) break;
    if ((first & mask) != 0) {
      split_utf8(first, first | mask, out);
      return split_utf8((first | mask) + 1, last, out);
    }
    if ((last & mask) != mask) {
      split_utf8(first, (last & ~mask) - 1, out);
      return split_utf8(last & ~mask, last, out);
    }
  }
  std::string low, high;
  utf8_append(low, first);
  utf8_append(high, last);
  ByteRanges sequence;
  for (size_t i = 0; i < low.size(); ++i)
    sequence.emplace_back(static_cast<uint8_t>(low[i]), static_cast<uint8_t>(high[i]));
  out.push_back(std::move(sequence));
}

class Builder {
 public:
  Builder(GrammarAst& ast, const GrammarPlan& plan, const std::set<GrammarAst::Node>& unrolled, bool may_count)
      : ast_(ast), plan_(plan), unrolled_(unrolled), may_count_(may_count) {}

  GrammarNfa build_rule(int32_t rule) {
    nfa_.start = add();
    nfa_.end = build(ast_.rule(rule).body, nfa_.start);
    return std::move(nfa_);
  }

 private:
  using Node = GrammarAst::Node;

  int32_t add() {
    if (nfa_.states.size() >= kMaxNfaStates) fail(ErrorCode::kUnsupported, "the grammar is too large");
    nfa_.states.emplace_back();
    nfa_.states.back().loop = loop_;
    return static_cast<int32_t>(nfa_.states.size()) - 1;
  }
  GrammarNfa::State& at(int32_t state) { return nfa_.states[static_cast<size_t>(state)]; }
  void join(int32_t from, int32_t to) { at(from).empty.push_back(to); }

  // Builds a node behind `in`; its end is the result.
  int32_t build(Node node, int32_t in) {
    if (++steps_ > kMaxSteps) fail(ErrorCode::kUnsupported, "the grammar is too large");
    const GrammarAst::Expr& e = ast_.expr(node);
    switch (e.op) {
      case GrammarAst::Op::kBytes:
        for (char c : e.bytes) {
          const int32_t next = add();
          at(in).edges.push_back({static_cast<uint8_t>(c), static_cast<uint8_t>(c), next});
          in = next;
        }
        return in;
      case GrammarAst::Op::kChars:
        return build_chars(e.ranges, in);
      case GrammarAst::Op::kSeq: {
        const std::vector<Node> parts = e.children;  // building may move the expressions
        for (Node part : parts) in = build(part, in);
        return in;
      }
      case GrammarAst::Op::kAlt: {
        const std::vector<Node> parts = e.children;
        const int32_t out = add();
        for (Node part : parts) {
          const int32_t begin = add();
          join(in, begin);
          const int32_t end = build(part, begin);
          join(end, out);
        }
        return out;
      }
      case GrammarAst::Op::kRepeat:
        return build_repeat(node, in);
      case GrammarAst::Op::kCall:
        return build_call(e.min, in);
      case GrammarAst::Op::kToken: {
        const int32_t out = add(), id = ast_.expr(node).min;
        at(in).tokens.push_back({id, out});
        return out;
      }
      case GrammarAst::Op::kTextWithout:
        return build_text_without(e.texts, in);
      case GrammarAst::Op::kMembers:
        return build_members(node, in);
    }
    return in;
  }

  // `none`: no member yet, so that the next one has no separator before it; `some`: there were members.
  int32_t build_members(Node node, int32_t none) {
    const GrammarAst::Expr e = ast_.expr(node);
    int32_t some = add();
    for (size_t i = 0; i < e.bytes.size(); ++i) {
      const auto kind = static_cast<GrammarAst::Member>(e.bytes[i]);
      const int32_t begin = add();
      join(none, begin);
      join(build(e.children.back(), some), begin);
      const int32_t end = build(e.children[i], begin);
      if (kind == GrammarAst::Member::kRepeated) {
        join(end, some);
        continue;
      }
      const int32_t next_none = add(), next_some = add();
      join(end, next_some);
      if (kind == GrammarAst::Member::kOptional) {
        join(none, next_none);
        join(some, next_some);
      }
      none = next_none;
      some = next_some;
    }
    const int32_t out = add();
    join(none, out);
    join(some, out);
    return out;
  }

  int32_t build_call(int32_t rule, int32_t in) {
    if (static_cast<size_t>(rule) < plan_.inlined.size() && plan_.inlined[static_cast<size_t>(rule)])
      return build(ast_.rule(rule).body, in);
    const int32_t out = add();
    at(in).calls.push_back({rule, out});
    return out;
  }

  int32_t build_chars(const std::vector<CodeRange>& ranges, int32_t in) {
    std::vector<ByteRanges> sequences;
    for (const CodeRange& r : ranges) split_utf8(r.first, r.last, sequences);
    const int32_t out = add();
    std::map<ByteRanges, int32_t> tails{{ByteRanges{}, out}};  // equal ends are shared
    for (const ByteRanges& sequence : sequences) {
      int32_t target = out;
      for (size_t i = sequence.size(); i-- > 1;) {
        const ByteRanges tail(sequence.begin() + static_cast<long>(i), sequence.end());
        auto [it, fresh] = tails.try_emplace(tail, -1);
        if (fresh) {
          const int32_t state = add();
          at(state).edges.push_back({sequence[i].first, sequence[i].second, target});
          it->second = state;
        }
        target = it->second;
      }
      at(in).edges.push_back({sequence[0].first, sequence[0].second, target});
    }
    return out;
  }

  bool counts(Node node) const {
    const GrammarAst::Expr& e = ast_.expr(node);
    return (e.counted || std::max(e.min, e.max) > kUnrolledRounds) && plan_.pure[static_cast<size_t>(e.children[0])] &&
           !unrolled_.contains(node);
  }

  int32_t build_repeat(Node node, int32_t in) {
    const Node part = ast_.expr(node).children[0];
    const int32_t min = ast_.expr(node).min, max = ast_.expr(node).max;
    if (counts(node) && loop_ < 0) {
      if (may_count_) return build_counted(node, in);
      const int32_t rule = ast_.add_rule("a counted part");
      ast_.define(rule, node);
      return build_call(rule, in);
    }
    for (int32_t i = 0; i < min; ++i) in = build(part, in);
    if (max == GrammarAst::kUnbounded) {
      const int32_t hub = add();
      join(in, hub);
      const int32_t begin = add();
      join(hub, begin);
      const int32_t end = build(part, begin);
      join(end, hub);
      const int32_t out = add();
      join(hub, out);
      return out;
    }
    const int32_t out = add();
    join(in, out);
    for (int32_t i = min; i < max; ++i) {
      const int32_t begin = add();
      join(in, begin);
      in = build(part, begin);
      join(in, out);
    }
    return out;
  }

  int32_t build_counted(Node node, int32_t in) {
    const GrammarAst::Expr e = ast_.expr(node);
    const auto loop = static_cast<int32_t>(nfa_.loops.size());
    nfa_.loops.push_back({e.min, e.max, node});
    loop_ = loop;
    const int32_t head = add(), begin = add();
    join(in, head);
    join(head, begin);
    const int32_t end = build(e.children[0], begin);
    join(end, head);
    loop_ = -1;
    const int32_t out = add();
    at(head).exit = out;
    return out;
  }

  // Aho and Corasick's automaton (1975) of the forbidden texts, without the states in which one of them is complete.
  int32_t build_text_without(const std::vector<std::string>& texts, int32_t in) {
    struct Item {
      std::array<int32_t, 256> next;
      int32_t fail = 0;
      bool forbidden = false;
    };
    std::vector<Item> items(1);
    items[0].next.fill(-1);
    for (const std::string& text : texts) {
      int32_t at_item = 0;
      for (char c : text) {
        const auto byte = static_cast<uint8_t>(c);
        if (items[static_cast<size_t>(at_item)].next[byte] < 0) {
          items[static_cast<size_t>(at_item)].next[byte] = static_cast<int32_t>(items.size());
          items.emplace_back();
          items.back().next.fill(-1);
        }
        at_item = items[static_cast<size_t>(at_item)].next[byte];
      }
      items[static_cast<size_t>(at_item)].forbidden = true;
    }
    std::vector<int32_t> order{0};
    for (size_t i = 0; i < order.size(); ++i) {
      const auto from = static_cast<size_t>(order[i]);
      for (size_t byte = 0; byte < 256; ++byte) {
        const int32_t fallback = from == 0 ? 0 : items[static_cast<size_t>(items[from].fail)].next[byte];
        int32_t& next = items[from].next[byte];
        if (next < 0) {
          next = fallback;
          continue;
        }
        Item& child = items[static_cast<size_t>(next)];
        child.fail = from == 0 ? 0 : fallback;
        child.forbidden |= items[static_cast<size_t>(child.fail)].forbidden;
        order.push_back(next);
      }
    }
    std::vector<int32_t> states;
    for (size_t i = 0; i < items.size(); ++i) states.push_back(add());
    const int32_t out = add();
    for (size_t i = 0; i < items.size(); ++i) {
      if (items[i].forbidden) continue;
      join(states[i], out);
      for (int byte = 0; byte < 256;) {
        const int32_t target = items[i].next[static_cast<size_t>(byte)];
        int last = byte;
        while (last < 255 && items[i].next[static_cast<size_t>(last + 1)] == target) ++last;
        if (!items[static_cast<size_t>(target)].forbidden) {
          at(states[i]).edges.push_back(
              {static_cast<uint8_t>(byte), static_cast<uint8_t>(last), states[static_cast<size_t>(target)]});
        }
        byte = last + 1;
      }
    }
    join(in, states[0]);
    return out;
  }

  GrammarAst& ast_;
  const GrammarPlan& plan_;
  const std::set<Node>& unrolled_;
  const bool may_count_;
  GrammarNfa nfa_;
  int32_t loop_ = -1;
  size_t steps_ = 0;
};

}  // namespace

GrammarNfa build_nfa(GrammarAst& ast, const GrammarPlan& plan, int32_t rule,
                     const std::set<GrammarAst::Node>& unrolled) {
  const bool pure = static_cast<size_t>(rule) >= plan.pure_rule.size() || plan.pure_rule[static_cast<size_t>(rule)];
  return Builder(ast, plan, unrolled, pure).build_rule(rule);
}

}  // namespace tessera
