// Masks inside a leaf, whatever calls it: for a state of its automaton and a node of the vocabulary's tree, which
// tokens below the node stay in the leaf, and at which nodes the leaf may have ended with bytes left over. In a counted
// loop both depend on the count; tokens are kept by how many rounds they take. Thread-safe: answers are computed when
// first asked for, and then kept.
#pragma once

#include <cstdint>
#include <memory>
#include <shared_mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "text/grammar_program.h"
#include "text/grammar_vocabulary.h"

namespace tessera {

struct LeafAnswer {
  static constexpr int32_t kAlways = -1;

  struct Escape {
    uint32_t node;   // the leaf has ended here, and tokens go on with bytes that may follow it
    int32_t rounds;  // when it left the loop after so many; kAlways: no condition
  };
  struct Group {
    int32_t rounds;
    uint32_t begin, end;  // into tokens
  };
  std::vector<int32_t> tokens;
  std::vector<Group> inside;   // by rounds begun, ascending: allowed while the loop admits so many
  std::vector<Group> outside;  // left the loop after so many: allowed if the loop has its minimum then, too
  std::vector<Escape> escapes;

  // For many tokens: masks of all inside groups up to index i (the first few), of all inside, and of everything.
  std::vector<std::vector<uint32_t>> up_to;
  std::vector<uint32_t> all_inside, everything;

  // missing: rounds until the loop's minimum; left: rounds until its maximum. Outside loops: 0 and INT32_MAX.
  void add_to(std::span<uint32_t> mask, int32_t missing, int32_t left) const;
  int64_t bytes() const;
  // stay, leave: tokens by rounds. words: of a mask.
  void fill(const std::vector<std::vector<int32_t>>& stay, const std::vector<std::vector<int32_t>>& leave,
            size_t words);
};

class LeafMasks {
 public:
  // Copies the rule's states. `follow`: bytes that may come after the leaf.
  LeafMasks(const GrammarProgram& program, const GrammarRule& rule, const ByteSet& follow);
  ~LeafMasks();

  // What it is, without its loop's bounds where the rule is for any length: equal keys have equal answers.
  std::string key() const;

  // state: counted from the rule's first. Null: cannot be told without the loop's bounds, or there is no room to keep
  // it.
  const LeafAnswer* find(const VocabularyIndex& vocabulary, uint32_t state, uint32_t node);
  // Computes what the rule's states need at the root, while `budget` (nodes to walk) lasts.
  void prepare(const VocabularyIndex& vocabulary, int64_t& budget);

 private:
  struct Edge {
    int32_t target = -1;
    uint8_t op = 0;
  };
  struct State {
    int32_t loop = -1;
    bool head = false, accept = false;
    std::vector<GrammarEdge> edges;  // targets counted from the first state
    std::vector<Edge> row;           // by byte; filled when first needed
  };
  struct Walk;

  const Edge& edge(uint32_t state, uint8_t byte);
  bool advance(const Walk& at, const Edge& edge, Walk& next) const;
  bool escapes(const VocabularyIndex& vocabulary, const Walk& at) const;
  const LeafAnswer* find_or_compute(const VocabularyIndex& vocabulary, uint32_t state, uint32_t node, int64_t& visited);
  std::unique_ptr<LeafAnswer> compute(const VocabularyIndex& vocabulary, uint32_t state, uint32_t node,
                                      int64_t& visited);

  std::vector<State> states_;
  std::vector<GrammarLoop> loops_;
  ByteSet follow_;
  bool bounds_in_key_ = false;

  std::shared_ptr<std::atomic<int64_t>> mask_bytes_;  // the vocabulary's, once something is kept
  int64_t bytes_ = 0;                                 // of it, this leaf's
  std::shared_mutex mutex_;
  std::unordered_map<uint64_t, std::unique_ptr<LeafAnswer>> answers_;
};

}  // namespace tessera
