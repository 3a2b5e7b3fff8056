#include "text/grammar_determinize.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "core/error.h"

namespace tessera {

namespace {

constexpr size_t kMaxStates = 60000;   // of a program
constexpr size_t kMaxWork = 20000000;  // NFA states looked at, for one rule

using Subset = std::vector<int32_t>;  // NFA states that do something, sorted

class Determinizer {
 public:
  Determinizer(GrammarProgram& program, const GrammarNfa& nfa, int32_t rule)
      : program_(program), nfa_(nfa), rule_(static_cast<uint32_t>(rule)), seen_(nfa.states.size()) {}

  // The node of a repetition that cannot be counted; the program is as it was then.
  std::optional<GrammarAst::Node> run() {
    first_state_ = program_.states.size();
    const size_t edges = program_.edges.size(), calls = program_.calls.size(), tokens = program_.tokens.size();
    const size_t loops = program_.loops.size();
    first_loop_ = static_cast<int32_t>(loops);
    for (const GrammarNfa::Loop& loop : nfa_.loops) program_.loops.push_back({loop.min, loop.max});
    state_of(closure({nfa_.start}));
    for (size_t i = 0; i < subsets_.size() && !conflict_; ++i) expand(i);
    if (!conflict_) return std::nullopt;
    program_.states.resize(first_state_);
    program_.edges.resize(edges);
    program_.calls.resize(calls);
    program_.tokens.resize(tokens);
    program_.loops.resize(loops);
    return conflict_;
  }

 private:
  struct Move {
    uint8_t first, last, op;
    int32_t target;
  };

  const GrammarNfa::State& at(int32_t state) const { return nfa_.states[static_cast<size_t>(state)]; }

  void clash(int32_t loop) { conflict_ = nfa_.loops[static_cast<size_t>(loop)].node; }

  // Follows empty moves, but not into or out of a counted loop. Marks a conflict unless the result is all outside
  // loops, all inside one, or one head alone.
  Subset closure(const Subset& from) {
    Subset out, stack;
    ++stamp_;
    auto visit = [&](int32_t s) {
      if (seen_[static_cast<size_t>(s)] == stamp_) return;
      seen_[static_cast<size_t>(s)] = stamp_;
      stack.push_back(s);
    };
    for (int32_t s : from) visit(s);
    while (!stack.empty()) {
      const int32_t s = stack.back();
      stack.pop_back();
      if (++work_ > kMaxWork) fail(ErrorCode::kUnsupported, "the grammar is too large: its automaton takes too long");
      const GrammarNfa::State& state = at(s);
      if (nfa_.head(s) || s == nfa_.end || !state.edges.empty() || !state.calls.empty() || !state.tokens.empty())
        out.push_back(s);
      if (!nfa_.head(s))
        for (int32_t next : state.empty) visit(next);
    }
    std::sort(out.begin(), out.end());
    check(out);
    return out;
  }

  void check(const Subset& set) {
    for (int32_t s : set) {
      const int32_t loop = at(s).loop;
      if (nfa_.head(s) && set.size() > 1) clash(loop);
      if (loop != at(set[0]).loop) clash(std::max(loop, at(set[0]).loop));
    }
  }

  int32_t loop_of(const Subset& set) const { return set.empty() ? -1 : at(set[0]).loop; }

  uint32_t state_of(Subset set) {
    auto [it, fresh] = ids_.try_emplace(std::move(set), static_cast<uint32_t>(program_.states.size()));
    if (fresh) {
      if (program_.states.size() >= kMaxStates)
        fail(ErrorCode::kUnsupported, "the grammar is too large: its automaton has more than {} states", kMaxStates);
      subsets_.push_back(&it->first);
      GrammarState& state = program_.states.emplace_back();
      state.rule = rule_;
      if (const int32_t loop = loop_of(it->first); loop >= 0) state.loop = first_loop_ + loop;
      state.head = it->first.size() == 1 && nfa_.head(it->first[0]);
    }
    return it->second;
  }

  // The moves of a set and whether it accepts, where a head stands for its loop and what follows it.
  void gather(const Subset& set, uint8_t op, std::vector<Move>& moves, bool& accept) {
    if (set.size() == 1 && nfa_.head(set[0])) return gather_head(set[0], op, moves, accept);
    for (int32_t s : set) {
      accept |= s == nfa_.end;
      for (const GrammarNfa::Edge& e : at(s).edges) moves.push_back({e.first, e.last, op, e.target});
      work_ += at(s).edges.size();
    }
  }

  void gather_head(int32_t head, uint8_t op, std::vector<Move>& moves, bool& accept) {
    const GrammarNfa::State& state = at(head);
    const Subset body = closure(state.empty);
    const bool entering = op != kEdgePlain;
    for (int32_t s : body) {
      // A round that may be empty cannot be counted.
      if (s == nfa_.end || nfa_.head(s)) return clash(state.loop);
      for (const GrammarNfa::Edge& e : at(s).edges)
        moves.push_back(
            {e.first, e.last, static_cast<uint8_t>(op | kEdgeCount | (entering ? kEdgeEnter : 0)), e.target});
    }
    if (entering && nfa_.loops[static_cast<size_t>(state.loop)].min > 0) return;
    if (++head_depth_ > 100) return clash(state.loop);
    const Subset after = closure({state.exit});
    if (!conflict_) gather(after, op | kEdgeExit, moves, accept);
    --head_depth_;
  }

  void expand(size_t index) {
    const Subset set = *subsets_[index];
    const uint32_t id = static_cast<uint32_t>(first_state_ + index);
    std::vector<Move> moves;
    bool accept = false;
    gather(set, kEdgePlain, moves, accept);
    if (conflict_) return;
    GrammarState state = program_.states[id];
    state.accept = accept;
    state.edges = static_cast<uint32_t>(program_.edges.size());
    std::vector<GrammarEdge> edges;
    add_edges(moves, loop_of(set), edges);
    if (conflict_) return;
    program_.edges.insert(program_.edges.end(), edges.begin(), edges.end());
    state.edges_end = static_cast<uint32_t>(program_.edges.size());
    std::map<int32_t, Subset> calls, tokens;
    for (int32_t s : set) {
      for (const GrammarNfa::Link& link : at(s).calls) calls[link.symbol].push_back(link.target);
      for (const GrammarNfa::Link& link : at(s).tokens) tokens[link.symbol].push_back(link.target);
    }
    state.calls = static_cast<uint32_t>(program_.calls.size());
    for (const auto& [called, targets] : calls)
      program_.calls.push_back({static_cast<uint32_t>(called), state_of(closure(targets))});
    state.calls_end = static_cast<uint32_t>(program_.calls.size());
    state.tokens = static_cast<uint32_t>(program_.tokens.size());
    for (const auto& [token, targets] : tokens) program_.tokens.push_back({token, state_of(closure(targets))});
    state.tokens_end = static_cast<uint32_t>(program_.tokens.size());
    program_.states[id] = state;
  }

  // Cuts the moves at each other's ends; what reads the same bytes becomes one edge.
  void add_edges(const std::vector<Move>& moves, int32_t loop, std::vector<GrammarEdge>& edges) {
    std::vector<std::vector<size_t>> starting(257);
    std::bitset<257> cuts;
    for (size_t i = 0; i < moves.size(); ++i) {
      starting[moves[i].first].push_back(i);
      cuts.set(moves[i].first);
      cuts.set(moves[i].last + 1u);
    }
    std::vector<size_t> active;
    for (size_t byte = 0; byte < 256; ++byte) {
      if (!cuts[byte]) continue;
      std::erase_if(active, [&](size_t i) { return moves[i].last < byte; });
      active.insert(active.end(), starting[byte].begin(), starting[byte].end());
      if (active.empty()) continue;
      size_t last = byte;
      while (!cuts[last + 1]) ++last;
      Subset targets;
      uint8_t op = moves[active[0]].op;
      for (size_t i : active) {
        if (moves[i].op != op) return clash(std::max(loop, 0));  // both another round and the way out
        targets.push_back(moves[i].target);
      }
      Subset set = closure(targets);
      if (conflict_) return;
      const int32_t target_loop = loop_of(set);
      if (target_loop >= 0 && !(op & kEdgeEnter) && ((op & kEdgeExit) || target_loop != loop)) op |= kEdgeEnter;
      const uint32_t target = state_of(std::move(set));
      const bool joins =
          !edges.empty() && edges.back().last + 1u == byte && edges.back().target == target && edges.back().op == op;
      if (joins) {
        edges.back().last = static_cast<uint8_t>(last);
      } else {
        edges.push_back({static_cast<uint8_t>(byte), static_cast<uint8_t>(last), op, target});
      }
    }
  }

  GrammarProgram& program_;
  const GrammarNfa& nfa_;
  const uint32_t rule_;
  size_t first_state_ = 0;
  int32_t first_loop_ = 0;
  std::map<Subset, uint32_t> ids_;
  std::vector<const Subset*> subsets_;  // keys of ids_, by state
  std::vector<uint32_t> seen_;
  uint32_t stamp_ = 0;
  size_t work_ = 0;
  int head_depth_ = 0;
  std::optional<GrammarAst::Node> conflict_;
};

}  // namespace

void determinize_rule(GrammarProgram& program, GrammarAst& ast, const GrammarPlan& plan, int32_t rule) {
  constexpr int kMaxConflicts = 16;  // then none is counted
  std::set<GrammarAst::Node> unrolled;
  int conflicts = 0;
  for (;;) {
    const GrammarNfa nfa = build_nfa(ast, plan, rule, unrolled);
    Determinizer determinizer(program, nfa, rule);
    const size_t first_state = program.states.size();
    const std::optional<GrammarAst::Node> conflict = determinizer.run();
    if (!conflict) {
      GrammarRule& out = program.rules[static_cast<size_t>(rule)];
      out.first_state = static_cast<uint32_t>(first_state);
      out.state_count = static_cast<uint32_t>(program.states.size() - first_state);
      return;
    }
    unrolled.insert(*conflict);
    if (++conflicts < kMaxConflicts) continue;
    for (const GrammarNfa::Loop& loop : nfa.loops) unrolled.insert(loop.node);
  }
}

}  // namespace tessera
