#include "text/grammar_machine.h"

#include <algorithm>

#include "core/error.h"

namespace tessera {

namespace {

constexpr size_t kMaxConfigs = 20000;  // at one position
constexpr size_t kSmall = 24;          // up to here a list is searched, beyond it a table

}  // namespace

GrammarMachine::GrammarMachine(std::shared_ptr<const GrammarProgram> program) : program_(std::move(program)) {
  frames_.push_back({0, 0});
  begin();
  add(program_->rules[program_->root].first_state, 0, 0);
  finish();
}

void GrammarMachine::begin() {
  positions_.push_back({static_cast<uint32_t>(configs_.size()), static_cast<uint32_t>(frames_.size()),
                        static_cast<uint32_t>(links_.size()), false});
  opened_count_ = 0;
  ++steps_;
}

// Completes the position; false, and it is gone, when no way is open.
bool GrammarMachine::finish() {
  if (configs_.size() == positions_.back().configs) {
    positions_.pop_back();
    return false;
  }
  close();
  for (size_t i = 0; i < opened_count_; ++i) {
    const auto begin = static_cast<uint32_t>(links_.size());
    links_.insert(links_.end(), opened_[i].links.begin(), opened_[i].links.end());
    frames_.push_back({begin, static_cast<uint32_t>(links_.size())});
  }
  return true;
}

void GrammarMachine::add(uint32_t state, uint32_t frame, int32_t count) {
  const Config config{state, frame, count};
  const size_t first = positions_.back().configs, size = configs_.size() - first;
  if (size <= kSmall) {
    for (size_t i = first; i < configs_.size(); ++i)
      if (configs_[i] == config) return;
    configs_.push_back(config);
    return;
  }
  if (size >= kMaxConfigs)
    fail(ErrorCode::kUnsupported, "the grammar is too ambiguous: more than {} ways are open at once", kMaxConfigs);
  auto slot_of = [&](const Config& c) {
    uint64_t hash =
        (uint64_t{c.state} << 32 | c.frame) * 0x9e3779b97f4a7c15u ^ static_cast<uint32_t>(c.count) * 0x85ebca6bu;
    hash ^= hash >> 29;
    for (size_t i = hash & (seen_.size() - 1);; i = (i + 1) & (seen_.size() - 1))
      if (seen_[i] == 0 || configs_[first + seen_[i] - 1] == c) return i;
  };
  if (size == kSmall + 1 || size * 2 > seen_.size()) {
    seen_.assign(size == kSmall + 1 ? 256 : seen_.size() * 2, 0);
    for (size_t i = 0; i < size; ++i) seen_[slot_of(configs_[first + i])] = static_cast<uint32_t>(i + 1);
  }
  const size_t slot = slot_of(config);
  if (seen_[slot] != 0) return;
  configs_.push_back(config);
  seen_[slot] = static_cast<uint32_t>(size + 1);
}

// Adds what follows without reading: ends of rules and calls. A frame of this very position ends only where its rule
// may be empty, and then the caller has gone on already (Aycock and Horspool 2002).
void GrammarMachine::close() {
  Position& position = positions_.back();
  for (size_t i = position.configs; i < configs_.size(); ++i) {
    const Config config = configs_[i];
    const GrammarState& state = program_->states[config.state];
    if (program_->accepts(state, config.count)) {
      if (config.frame == 0) position.can_end = true;
      if (config.frame < position.frames) end_rule(config.frame);
    }
    for (uint32_t c = state.calls; c < state.calls_end; ++c) call(program_->calls[c], config.frame);
  }
}

void GrammarMachine::end_rule(uint32_t frame) {
  for (uint32_t l = frames_[frame].links; l < frames_[frame].links_end; ++l) add(links_[l].state, links_[l].frame, 0);
}

void GrammarMachine::call(const GrammarCall& call, uint32_t frame) {
  const GrammarRule& rule = program_->rules[call.rule];
  if (rule.nullable) add(call.target, frame, 0);
  const uint32_t first = positions_.back().frames;
  size_t i = 0;
  while (i < opened_count_ && opened_[i].rule != call.rule) ++i;
  if (i == opened_count_) {
    if (++opened_count_ > opened_.size()) opened_.emplace_back();
    opened_[i].rule = call.rule;
    opened_[i].links.clear();
    add(rule.first_state, first + static_cast<uint32_t>(i), 0);
  }
  std::vector<Link>& links = opened_[i].links;
  auto link = [&](const Link& l) {
    if (std::find(links.begin(), links.end(), l) == links.end()) links.push_back(l);
  };
  // A call that is the last thing its rule does returns to that rule's own caller: right recursion needs no stack.
  if (program_->states[call.target].last && frame != 0 && frame < first) {
    for (uint32_t l = frames_[frame].links; l < frames_[frame].links_end; ++l) link(links_[l]);
  } else {
    link({call.target, frame});
  }
  if (links.size() > kMaxConfigs)
    fail(ErrorCode::kUnsupported, "the grammar is too ambiguous: more than {} ways are open at once", kMaxConfigs);
}

bool GrammarMachine::step(uint8_t byte, bool skip_masked) {
  const size_t from = positions_.back().configs, to = configs_.size();
  begin();
  for (size_t i = from; i < to; ++i) {
    const Config config = configs_[i];
    const GrammarState& state = program_->states[config.state];
    if (skip_masked && state.masked) continue;
    for (uint32_t e = state.edges; e < state.edges_end && program_->edges[e].first <= byte; ++e) {
      const GrammarEdge& edge = program_->edges[e];
      if (byte > edge.last) continue;
      const int32_t count = edge.op == kEdgePlain && program_->states[edge.target].loop < 0
                                ? 0
                                : program_->count_after(state, config.count, edge);
      if (count >= 0) add(edge.target, config.frame, count);
      break;
    }
  }
  return finish();
}

bool GrammarMachine::step_token(int32_t id) {
  const size_t from = positions_.back().configs, to = configs_.size();
  begin();
  for (size_t i = from; i < to; ++i) {
    const Config config = configs_[i];
    const GrammarState& state = program_->states[config.state];
    for (uint32_t e = state.tokens; e < state.tokens_end; ++e)
      if (program_->tokens[e].id == id) add(program_->tokens[e].target, config.frame, 0);
  }
  return finish();
}

bool GrammarMachine::step_out(uint32_t frame) {
  begin();
  end_rule(frame);
  return finish();
}

void GrammarMachine::truncate(size_t count) {
  if (count == positions_.size()) return;
  const Position& first = positions_[count];
  configs_.resize(first.configs);
  frames_.resize(first.frames);
  links_.resize(first.links);
  positions_.resize(count);
}

void GrammarMachine::squash(size_t from) {
  Position& first = positions_[from];
  const Position last = positions_.back();
  configs_.erase(configs_.begin() + first.configs, configs_.begin() + last.configs);
  first.can_end = last.can_end;  // frames and links are counted from before the first one's
  positions_.resize(from + 1);
}

void GrammarMachine::forget(size_t count) {
  if (positions_.size() > 4 * count + 64 || frames_.size() > compact_at_) {
    if (positions_.size() > count) {
      const size_t drop = positions_.size() - count;
      const uint32_t configs = positions_[drop].configs;
      configs_.erase(configs_.begin(), configs_.begin() + configs);
      positions_.erase(positions_.begin(), positions_.begin() + static_cast<long>(drop));
      for (Position& p : positions_) p.configs -= configs;
    }
    compact();
    compact_at_ = std::max<size_t>(4096, 2 * frames_.size());
  }
}

// Drops frames that no config can return to; the order of the others stays, and with it what truncate() relies on.
void GrammarMachine::compact() {
  std::vector<bool> alive(frames_.size());
  std::vector<uint32_t> stack;
  auto mark = [&](uint32_t frame) {
    if (alive[frame]) return;
    alive[frame] = true;
    stack.push_back(frame);
  };
  mark(0);
  for (const Config& c : configs_) mark(c.frame);
  while (!stack.empty()) {
    const Frame frame = frames_[stack.back()];
    stack.pop_back();
    for (uint32_t l = frame.links; l < frame.links_end; ++l) mark(links_[l].frame);
  }
  std::vector<uint32_t> renamed(frames_.size() + 1), links_before(frames_.size() + 1);
  uint32_t kept = 0, kept_links = 0;
  for (size_t i = 0; i < frames_.size(); ++i) {
    renamed[i] = kept;
    links_before[i] = kept_links;
    if (!alive[i]) continue;
    const Frame frame = frames_[i];
    for (uint32_t l = frame.links; l < frame.links_end; ++l) links_[kept_links + (l - frame.links)] = links_[l];
    frames_[kept++] = {kept_links, kept_links + (frame.links_end - frame.links)};
    kept_links = frames_[kept - 1].links_end;
  }
  renamed[frames_.size()] = kept;
  links_before[frames_.size()] = kept_links;
  frames_.resize(kept);
  links_.resize(kept_links);
  for (Link& l : links_) l.frame = renamed[l.frame];
  for (Config& c : configs_) c.frame = renamed[c.frame];
  for (Position& p : positions_) {
    p.links = links_before[p.frames];
    p.frames = renamed[p.frames];
  }
}

ByteSet GrammarMachine::next_bytes(bool skip_masked) const {
  ByteSet bytes;
  for (const Config& c : configs()) {
    const GrammarState& state = program_->states[c.state];
    if (skip_masked && state.masked) continue;
    bytes |= program_->first[c.state];
  }
  return bytes;
}

bool GrammarMachine::has_token_edges() const {
  for (const Config& c : configs()) {
    const GrammarState& state = program_->states[c.state];
    if (state.tokens < state.tokens_end) return true;
  }
  return false;
}

}  // namespace tessera
