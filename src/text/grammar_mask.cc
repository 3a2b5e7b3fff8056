#include "text/grammar_mask.h"

#include <algorithm>

#include "core/error.h"

namespace tessera {

namespace {

constexpr uint64_t kMaxSteps = 2000000;  // about 0.2 s
constexpr uint32_t kLargeSubtree = 48;   // nodes from which on a leaf's kept answer is faster than a walk

}  // namespace

MaskWalk::MaskWalk(GrammarMachine& machine, std::span<uint32_t> mask)
    : machine_(machine),
      program_(machine.program()),
      vocabulary_(*program_.vocabulary),
      mask_(mask),
      last_step_(machine.steps() + kMaxSteps) {
  TS_CHECK(mask.size() == static_cast<size_t>((vocabulary_.size + 31) / 32), "a mask of {} words", mask.size());
}

void MaskWalk::run() {
  std::fill(mask_.begin(), mask_.end(), 0u);
  for (const GrammarMachine::Config& c : machine_.configs()) {
    const GrammarState& state = program_.states[c.state];
    for (uint32_t e = state.tokens; e < state.tokens_end; ++e)
      if (program_.tokens[e].id < vocabulary_.size) allow(program_.tokens[e].id);
  }
  below(0);
}

// Allows the tokens below a node, whose own bytes the machine has read.
void MaskWalk::below(uint32_t node) {
  const size_t position = machine_.positions();
  std::vector<Pending> pending;
  const bool skip = vocabulary_.end[node] - node >= kLargeSubtree && take_leaves(node, pending);
  const ByteSet next = machine_.next_bytes(skip);
  if (next.any()) {
    for (uint32_t child = node + 1; child < vocabulary_.end[node]; child = vocabulary_.end[child]) {
      const uint8_t byte = vocabulary_.byte[child];
      if (!next[byte] || !machine_.step(byte, skip)) continue;
      for (int32_t id : vocabulary_.tokens_at(child)) allow(id);
      if (child + 1 < vocabulary_.end[child]) below(child);
      machine_.truncate(position);
    }
    if (machine_.steps() > last_step_)
      fail(ErrorCode::kUnsupported, "the grammar is too ambiguous: the next tokens take more than {} steps", kMaxSteps);
  }
  for (const Pending& p : pending) {
    if (!machine_.step_out(p.frame)) continue;
    for (const LeafAnswer::Escape& e : p.answer->escapes)
      if (e.rounds == LeafAnswer::kAlways || (e.rounds >= p.missing && e.rounds <= p.left)) below(e.node);
    machine_.truncate(position);
  }
}

// Allows what leaves allow. False, and nothing is done, when one has no answer to give.
bool MaskWalk::take_leaves(uint32_t node, std::vector<Pending>& pending) {
  std::vector<Pending> found;
  for (const GrammarMachine::Config& c : machine_.configs()) {
    const GrammarState& state = program_.states[c.state];
    if (!state.masked) continue;
    const GrammarRule& rule = program_.rules[state.rule];
    const LeafAnswer* answer =
        program_.leaves[static_cast<size_t>(rule.leaf)]->find(vocabulary_, c.state - rule.first_state, node);
    if (answer == nullptr) return false;
    Pending p{answer, c.frame, 0, INT32_MAX};
    if (state.loop >= 0) {
      const auto [min, max] = program_.loops[static_cast<size_t>(state.loop)];
      p.missing = std::max(0, min - c.count);
      if (max != GrammarAst::kUnbounded) p.left = max - c.count;
    }
    found.push_back(p);
  }
  for (const Pending& p : found) {
    p.answer->add_to(mask_, p.missing, p.left);
    if (p.frame != 0 && !p.answer->escapes.empty()) pending.push_back(p);
  }
  return true;
}

}  // namespace tessera
