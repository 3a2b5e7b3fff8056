#include "text/grammar_leaf.h"

#include <algorithm>
#include <mutex>

namespace tessera {

namespace {

constexpr size_t kManyTokens = 2000;
constexpr size_t kMasksUpTo = 16;

void set_bit(std::span<uint32_t> mask, int32_t id) {
  mask[static_cast<size_t>(id) / 32] |= uint32_t{1} << (static_cast<uint32_t>(id) % 32);
}

void merge(std::span<uint32_t> mask, const std::vector<uint32_t>& other) {
  for (size_t i = 0; i < other.size(); ++i) mask[i] |= other[i];
}

void put(std::string& key, uint64_t value) {
  for (int shift = 0; shift < 64; shift += 8) key += static_cast<char>(value >> shift);
}

}  // namespace

void LeafAnswer::add_to(std::span<uint32_t> mask, int32_t missing, int32_t left) const {
  auto set_groups = [&](const std::vector<Group>& groups, int32_t low, int32_t high) {
    for (const Group& g : groups)
      if (g.rounds >= low && g.rounds <= high)
        for (uint32_t i = g.begin; i < g.end; ++i) set_bit(mask, tokens[i]);
  };
  if (everything.empty()) {
    set_groups(inside, 0, left);
    return set_groups(outside, missing, left);
  }
  const int32_t most_inside = inside.empty() ? 0 : inside.back().rounds;
  const int32_t most_outside = outside.empty() ? 0 : outside.back().rounds;
  if (missing == 0 && left >= std::max(most_inside, most_outside)) return merge(mask, everything);
  set_groups(outside, missing, left);
  if (left >= most_inside) return merge(mask, all_inside);
  auto after = std::upper_bound(inside.begin(), inside.end(), left,
                                [](int32_t rounds, const Group& g) { return rounds < g.rounds; });
  const auto groups = static_cast<size_t>(after - inside.begin());
  if (groups == 0) return;
  const size_t masked = std::min(groups, up_to.size());
  merge(mask, up_to[masked - 1]);
  for (size_t g = masked; g < groups; ++g)
    for (uint32_t i = inside[g].begin; i < inside[g].end; ++i) set_bit(mask, tokens[i]);
}

int64_t LeafAnswer::bytes() const {
  return static_cast<int64_t>((tokens.size() + all_inside.size() * (up_to.size() + 2)) * sizeof(uint32_t) +
                              (inside.size() + outside.size()) * sizeof(Group) + escapes.size() * sizeof(Escape));
}

LeafMasks::LeafMasks(const GrammarProgram& program, const GrammarRule& rule, const ByteSet& follow) : follow_(follow) {
  int32_t first_loop = INT32_MAX, last_loop = -1;
  for (uint32_t i = 0; i < rule.state_count; ++i) {
    const GrammarState& from = program.states[rule.first_state + i];
    State& state = states_.emplace_back();
    state.loop = from.loop;
    state.head = from.head;
    state.accept = from.accept;
    for (uint32_t e = from.edges; e < from.edges_end; ++e) {
      GrammarEdge edge = program.edges[e];
      edge.target -= rule.first_state;
      state.edges.push_back(edge);
    }
    if (from.loop < 0) continue;
    first_loop = std::min(first_loop, from.loop);
    last_loop = std::max(last_loop, from.loop);
  }
  for (int32_t loop = first_loop; loop <= last_loop; ++loop) loops_.push_back(program.loops[static_cast<size_t>(loop)]);
  for (State& state : states_)
    if (state.loop >= 0) state.loop -= first_loop;
  bounds_in_key_ = !rule.any_length;
}

std::string LeafMasks::key() const {
  std::string key = follow_.to_string();
  for (const State& s : states_) {
    put(key, (static_cast<uint64_t>(s.loop + 1) << 2) | (s.head ? 2 : 0) | (s.accept ? 1 : 0));
    put(key, s.edges.size());
    for (const GrammarEdge& e : s.edges)
      put(key, static_cast<uint64_t>(e.target) << 24 | uint64_t{e.op} << 16 | uint64_t{e.first} << 8 | e.last);
  }
  if (bounds_in_key_)
    for (const GrammarLoop& loop : loops_)
      put(key, static_cast<uint64_t>(loop.min) << 32 | static_cast<uint32_t>(loop.max));
  return key;
}

// Where a walk stands. Rounds are counted from the start of the walk until it leaves the loop it began in, and from
// the loop's own start in others.
struct LeafMasks::Walk {
  uint32_t node;
  uint32_t state;
  int32_t rounds = 0;
  int32_t left_after = LeafAnswer::kAlways;  // the first loop
  bool in_first_loop = false;
};

// The step over one edge. False: a loop's bounds forbid it. REQUIRES bounds that may be looked at, or an edge that does
// not enter a loop.
bool LeafMasks::advance(const Walk& at, const Edge& edge, Walk& next) const {
  const State& to = states_[next.state];
  if (edge.op & kEdgeExit) {
    if (at.in_first_loop) {
      next.left_after = at.rounds;
      next.in_first_loop = false;
    } else if (at.rounds < loops_[static_cast<size_t>(states_[at.state].loop)].min) {
      return false;
    }
  }
  if (edge.op & kEdgeEnter) {
    next.rounds = 0;
    next.in_first_loop = false;
  }
  if (!(edge.op & kEdgeCount)) return true;
  ++next.rounds;
  const int32_t max = loops_[static_cast<size_t>(to.loop)].max;
  return next.in_first_loop || max == GrammarAst::kUnbounded || next.rounds <= max;
}

// Whether the leaf may have ended where the walk stands, with bytes behind that may follow it.
bool LeafMasks::escapes(const VocabularyIndex& v, const Walk& at) const {
  const State& state = states_[at.state];
  if (!state.accept) return false;
  if (state.head && !at.in_first_loop && at.rounds < loops_[static_cast<size_t>(state.loop)].min) return false;
  for (uint32_t child = at.node + 1; child < v.end[at.node]; child = v.end[child])
    if (follow_[v.byte[child]]) return true;
  return false;
}

const LeafMasks::Edge& LeafMasks::edge(uint32_t state, uint8_t byte) {
  State& from = states_[state];
  if (from.row.empty()) {
    from.row.resize(256);
    for (const GrammarEdge& e : from.edges)
      for (size_t b = e.first; b <= e.last; ++b) from.row[b] = {static_cast<int32_t>(e.target), e.op};
  }
  return from.row[byte];
}

std::unique_ptr<LeafAnswer> LeafMasks::compute(const VocabularyIndex& v, uint32_t state, uint32_t node,
                                               int64_t& visited) {
  std::vector<std::vector<int32_t>> inside, outside;  // by rounds
  auto answer = std::make_unique<LeafAnswer>();
  std::vector<Walk> path{{.node = node, .state = state, .in_first_loop = states_[state].loop >= 0}};
  for (uint32_t n = node + 1; n < v.end[node];) {
    while (n >= v.end[path.back().node]) path.pop_back();
    const Walk& at = path.back();
    ++visited;
    const Edge& taken = edge(at.state, v.byte[n]);
    if (taken.target >= 0 && (taken.op & kEdgeEnter) && !bounds_in_key_) return nullptr;
    Walk next{n, static_cast<uint32_t>(taken.target), at.rounds, at.left_after, at.in_first_loop};
    if (taken.target < 0 || !advance(at, taken, next)) {
      n = v.end[n];
      continue;
    }
    if (const std::span<const int32_t> tokens = v.tokens_at(n); !tokens.empty()) {
      const bool left = next.left_after >= 0;
      const auto rounds = static_cast<size_t>(left ? next.left_after : next.in_first_loop ? next.rounds : 0);
      std::vector<std::vector<int32_t>>& groups = left ? outside : inside;
      if (rounds >= groups.size()) groups.resize(rounds + 1);
      groups[rounds].insert(groups[rounds].end(), tokens.begin(), tokens.end());
    }
    if (n + 1 < v.end[n]) {
      const bool leaves_now = states_[next.state].head && next.in_first_loop;
      if (escapes(v, next)) answer->escapes.push_back({n, leaves_now ? next.rounds : next.left_after});
      path.push_back(next);
    }
    ++n;
  }
  answer->fill(inside, outside, static_cast<size_t>((v.size + 31) / 32));
  return answer;
}

void LeafAnswer::fill(const std::vector<std::vector<int32_t>>& stay, const std::vector<std::vector<int32_t>>& leave,
                      size_t words) {
  auto flatten = [&](const std::vector<std::vector<int32_t>>& groups, std::vector<Group>& out) {
    for (size_t rounds = 0; rounds < groups.size(); ++rounds) {
      if (groups[rounds].empty()) continue;
      const auto begin = static_cast<uint32_t>(tokens.size());
      tokens.insert(tokens.end(), groups[rounds].begin(), groups[rounds].end());
      out.push_back({static_cast<int32_t>(rounds), begin, static_cast<uint32_t>(tokens.size())});
    }
  };
  flatten(stay, inside);
  flatten(leave, outside);
  if (tokens.size() < kManyTokens) return;
  std::vector<uint32_t> mask(words);
  for (const Group& g : inside) {
    for (uint32_t i = g.begin; i < g.end; ++i) set_bit(mask, tokens[i]);
    if (inside.size() > 1 && up_to.size() < kMasksUpTo) up_to.push_back(mask);
  }
  all_inside = mask;
  for (const Group& g : outside)
    for (uint32_t i = g.begin; i < g.end; ++i) set_bit(mask, tokens[i]);
  everything = std::move(mask);
}

LeafMasks::~LeafMasks() {
  if (mask_bytes_) *mask_bytes_ -= bytes_;
}

const LeafAnswer* LeafMasks::find(const VocabularyIndex& vocabulary, uint32_t state, uint32_t node) {
  {
    std::shared_lock lock(mutex_);
    if (auto it = answers_.find(uint64_t{state} << 32 | node); it != answers_.end()) return it->second.get();
  }
  std::unique_lock lock(mutex_);
  int64_t visited = 0;
  return find_or_compute(vocabulary, state, node, visited);
}

// REQUIRES the lock.
const LeafAnswer* LeafMasks::find_or_compute(const VocabularyIndex& vocabulary, uint32_t state, uint32_t node,
                                             int64_t& visited) {
  const uint64_t key = uint64_t{state} << 32 | node;
  if (auto it = answers_.find(key); it != answers_.end()) return it->second.get();
  if (*vocabulary.mask_bytes > VocabularyIndex::kMaxMaskBytes) return nullptr;
  mask_bytes_ = vocabulary.mask_bytes;
  std::unique_ptr<LeafAnswer> answer = compute(vocabulary, state, node, visited);
  const int64_t bytes = answer ? answer->bytes() : 0;
  bytes_ += bytes + 64;
  *mask_bytes_ += bytes + 64;
  return (answers_[key] = std::move(answer)).get();
}

void LeafMasks::prepare(const VocabularyIndex& vocabulary, int64_t& budget) {
  std::unique_lock lock(mutex_);
  for (uint32_t state = 0; state < states_.size() && budget > 0; ++state) {
    int64_t visited = 0;
    find_or_compute(vocabulary, state, 0, visited);
    budget -= visited + 1;
  }
}

}  // namespace tessera
