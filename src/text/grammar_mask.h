// Which tokens may come next: a walk through the vocabulary's tree beside the parser, which takes what happens inside
// leaves from their masks. Not thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "text/grammar_leaf.h"
#include "text/grammar_machine.h"
#include "text/grammar_vocabulary.h"

namespace tessera {

class MaskWalk {
 public:
  // The machine is at the same position again afterwards. mask: ceil(V / 32) words, all written. Throws kUnsupported
  // when a mask takes unreasonably many steps.
  MaskWalk(GrammarMachine& machine, std::span<uint32_t> mask);
  void run();

 private:
  struct Pending {  // a leaf that the walk has entered
    const LeafAnswer* answer;
    uint32_t frame;
    int32_t missing, left;  // rounds of its loop
  };

  void below(uint32_t node);
  bool take_leaves(uint32_t node, std::vector<Pending>& pending);
  void allow(int32_t id) { mask_[static_cast<size_t>(id) / 32] |= uint32_t{1} << (static_cast<uint32_t>(id) % 32); }

  GrammarMachine& machine_;
  const GrammarProgram& program_;
  const VocabularyIndex& vocabulary_;
  std::span<uint32_t> mask_;
  uint64_t last_step_;
};

}  // namespace tessera
