// A compiled grammar: one table of states for all rules. A state reads bytes, calls rules or takes special tokens; of
// a rule without calls ("leaf") it is a state of a deterministic automaton, in which long repetitions are counted
// instead of unrolled. Immutable, thread-safe.
#pragma once

#include <bitset>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "text/grammar_ast.h"

namespace tessera {

class LeafMasks;
struct VocabularyIndex;

using ByteSet = std::bitset<256>;

// Counting is done on edges. kExit: the source's loop has had its minimum. kEnter: the target's loop starts at 0.
// kCount: another round of the target's loop, not more than its maximum.
enum GrammarEdgeOp : uint8_t { kEdgePlain = 0, kEdgeExit = 1, kEdgeEnter = 2, kEdgeCount = 4 };

struct GrammarEdge {
  uint8_t first, last;  // bytes
  uint8_t op;
  uint32_t target;
  bool operator==(const GrammarEdge&) const = default;
};

struct GrammarState {
  uint32_t edges = 0, edges_end = 0;    // into GrammarProgram::edges, sorted, disjoint
  uint32_t calls = 0, calls_end = 0;    // into GrammarProgram::calls
  uint32_t tokens = 0, tokens_end = 0;  // into GrammarProgram::tokens
  uint32_t rule = 0;
  int32_t loop = -1;    // in which counted loop, into GrammarProgram::loops
  bool head = false;    // between two rounds of it: here it may be left, once it has had its minimum
  bool accept = false;  // the rule may end here (for a head: if the loop may be left)
  bool last = false;    // ... and does nothing else
  bool masked = false;  // of a leaf, whose masks do not depend on how its loop is bounded
};

struct GrammarCall {
  uint32_t rule, target;
};

struct GrammarTokenEdge {
  int32_t id;
  uint32_t target;
};

struct GrammarLoop {
  int32_t min, max;  // max may be kUnbounded
};

struct GrammarRule {
  std::string name;
  uint32_t first_state = 0, state_count = 0;  // the first is the start
  int32_t leaf = -1;                          // into GrammarProgram::leaves
  bool nullable = false;
  bool json = false;
  bool any_length = false;  // masks are shared with rules whose only loop has other bounds
};

struct GrammarProgram {
  std::vector<GrammarState> states;
  std::vector<GrammarEdge> edges;
  std::vector<GrammarCall> calls;
  std::vector<GrammarTokenEdge> tokens;
  std::vector<GrammarLoop> loops;
  std::vector<GrammarRule> rules;
  std::vector<ByteSet> first;  // by state: the bytes of its own edges
  uint32_t root = 0;           // rule

  std::shared_ptr<const VocabularyIndex> vocabulary;
  std::vector<std::shared_ptr<LeafMasks>> leaves;

  // The count after an edge, or -1 when the loop forbids it.
  int32_t count_after(const GrammarState& from, int32_t count, const GrammarEdge& edge) const;
  // Whether the rule may end in this state.
  bool accepts(const GrammarState& state, int32_t count) const {
    return state.accept && (!state.head || count >= loops[static_cast<size_t>(state.loop)].min);
  }
};

// Everything but vocabulary and leaves. Throws kUnsupported when the grammar is too large, kInvalidArgument when no
// finite text matches it.
GrammarProgram build_program(GrammarAst ast);
// The bytes that may follow a rule's text, by rule.
std::vector<ByteSet> follow_sets(const GrammarProgram& program);

}  // namespace tessera
