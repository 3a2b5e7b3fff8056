// One rule as a nondeterministic automaton, straight from its expression (Thompson's construction). Not thread-safe.
#pragma once

#include <cstdint>
#include <set>
#include <vector>

#include "text/grammar_ast.h"

namespace tessera {

// Facts about a grammar's rules that decide how one is built.
struct GrammarPlan {
  std::vector<bool> inlined;    // by rule: its body stands where it is called
  std::vector<bool> pure_rule;  // by rule: with inlining, neither calls nor special tokens are left
  std::vector<int8_t> pure;     // by node: the same
};

struct GrammarNfa {
  struct Edge {
    uint8_t first, last;
    int32_t target;
  };
  struct Link {
    int32_t symbol, target;  // a rule or a token's id
  };
  struct State {
    std::vector<int32_t> empty;  // moves without reading; of a head: to the body of its loop
    std::vector<Edge> edges;
    std::vector<Link> calls, tokens;
    int32_t loop = -1;  // into `loops`
    int32_t exit = -1;  // of a head: what follows the loop
  };
  struct Loop {
    int32_t min, max;
    GrammarAst::Node node;
  };
  std::vector<State> states;
  std::vector<Loop> loops;
  int32_t start = 0, end = 0;

  bool head(int32_t state) const { return states[static_cast<size_t>(state)].exit >= 0; }
};

inline constexpr int32_t kUnrolledRounds = 8;  // of a repetition, before it is counted

// `unrolled`: repetitions that cannot be counted. Rules that the grammar turns out to need (counted loops in a rule
// with calls) are added to the ast. Throws kUnsupported when there are too many states.
GrammarNfa build_nfa(GrammarAst& ast, const GrammarPlan& plan, int32_t rule,
                     const std::set<GrammarAst::Node>& unrolled);

}  // namespace tessera
