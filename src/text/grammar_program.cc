#include "text/grammar_program.h"

#include <algorithm>

#include "core/error.h"
#include "text/grammar_determinize.h"

namespace tessera {

namespace {

using Node = GrammarAst::Node;

constexpr int32_t kMaxRules = 20000;
constexpr int64_t kInlineCost = 2000;  // states that a call may be replaced by
constexpr int64_t kMaxCost = int64_t{1} << 40;

// Which rules are inlined: small ones that do not contain themselves.
class Planner {
 public:
  explicit Planner(const GrammarAst& ast) : ast_(ast), rules_(static_cast<size_t>(ast.rule_count())) {}

  GrammarPlan run() {
    const auto count = rules_.size();
    plan_.inlined.assign(count, false);
    plan_.pure_rule.assign(count, false);
    cost_.assign(count, 0);
    order_rules();
    for (size_t rule : order_) {
      visit(ast_.rule(static_cast<int32_t>(rule)).body);
      const Node body = ast_.rule(static_cast<int32_t>(rule)).body;
      cost_[rule] = node_cost_[static_cast<size_t>(body)];
      plan_.pure_rule[rule] = plan_.pure[static_cast<size_t>(body)] == 1;
      const GrammarAst::Rule& facts = ast_.rule(static_cast<int32_t>(rule));
      plan_.inlined[rule] =
          !rules_[rule].recursive && !facts.apart && facts.place.empty() && cost_[rule] <= kInlineCost;
    }
    return std::move(plan_);
  }

 private:
  struct RuleFacts {
    std::vector<size_t> calls;
    bool recursive = false;
    int32_t index = -1, low = 0;
    bool on_stack = false;
    size_t next = 0;
  };

  void collect_calls(size_t rule) {
    std::vector<Node> stack{ast_.rule(static_cast<int32_t>(rule)).body};
    while (!stack.empty()) {
      const GrammarAst::Expr& e = ast_.expr(stack.back());
      stack.pop_back();
      if (e.op == GrammarAst::Op::kCall) rules_[rule].calls.push_back(static_cast<size_t>(e.min));
      stack.insert(stack.end(), e.children.begin(), e.children.end());
    }
    std::vector<size_t>& calls = rules_[rule].calls;
    std::sort(calls.begin(), calls.end());
    calls.erase(std::unique(calls.begin(), calls.end()), calls.end());
  }

  // Tarjan's components (1972), callees first, without recursion.
  void order_rules() {
    for (size_t rule = 0; rule < rules_.size(); ++rule) collect_calls(rule);
    std::vector<size_t> component, path;
    int32_t index = 0;
    for (size_t root = 0; root < rules_.size(); ++root) {
      if (rules_[root].index >= 0) continue;
      path.push_back(root);
      while (!path.empty()) {
        const size_t at = path.back();
        RuleFacts& facts = rules_[at];
        if (facts.index < 0) {
          facts.index = facts.low = index++;
          facts.on_stack = true;
          component.push_back(at);
        }
        if (facts.next < facts.calls.size()) {
          const size_t called = facts.calls[facts.next++];
          facts.recursive |= called == at;
          if (rules_[called].index < 0) {
            path.push_back(called);
          } else if (rules_[called].on_stack) {
            facts.low = std::min(facts.low, rules_[called].index);
          }
          continue;
        }
        path.pop_back();
        if (!path.empty()) rules_[path.back()].low = std::min(rules_[path.back()].low, facts.low);
        if (facts.low != facts.index) continue;
        const bool many = component.back() != at;
        for (bool more = true; more;) {
          const size_t member = component.back();
          component.pop_back();
          rules_[member].on_stack = false;
          rules_[member].recursive |= many;
          order_.push_back(member);
          more = member != at;
        }
      }
    }
  }

  // Cost and purity of a node and all below it; children first, without recursion.
  void visit(Node root) {
    std::vector<Node> stack{root};
    while (!stack.empty()) {
      const auto node = static_cast<size_t>(stack.back());
      if (node >= plan_.pure.size()) {
        plan_.pure.resize(node + 1, -1);
        node_cost_.resize(node + 1, 0);
      }
      if (plan_.pure[node] >= 0) {
        stack.pop_back();
        continue;
      }
      const GrammarAst::Expr& e = ast_.expr(static_cast<Node>(node));
      bool ready = true;
      for (Node child : e.children) {
        const auto c = static_cast<size_t>(child);
        if (c >= plan_.pure.size() || plan_.pure[c] < 0) {
          stack.push_back(child);
          ready = false;
        }
      }
      if (!ready) continue;
      stack.pop_back();
      settle(node, e);
    }
  }

  void settle(size_t node, const GrammarAst::Expr& e) {
    bool pure = e.op != GrammarAst::Op::kToken;
    int64_t cost = 1 + static_cast<int64_t>(e.bytes.size()) + 3 * static_cast<int64_t>(e.ranges.size());
    for (const std::string& text : e.texts) cost += static_cast<int64_t>(text.size()) + 1;
    for (Node child : e.children) {
      pure = pure && plan_.pure[static_cast<size_t>(child)] == 1;
      cost += node_cost_[static_cast<size_t>(child)];
    }
    if (e.op == GrammarAst::Op::kMembers)
      cost += static_cast<int64_t>(e.bytes.size()) * node_cost_[static_cast<size_t>(e.children.back())];
    if (e.op == GrammarAst::Op::kRepeat) {
      const int64_t rounds = std::max<int64_t>({e.min, e.max, 1});
      if (!pure || rounds <= kUnrolledRounds) cost *= rounds;
    }
    if (e.op == GrammarAst::Op::kCall) {
      const auto called = static_cast<size_t>(e.min);
      pure = plan_.inlined[called] && plan_.pure_rule[called];
      if (plan_.inlined[called]) cost += cost_[called];
    }
    node_cost_[node] = std::min(cost, kMaxCost);
    plan_.pure[node] = pure;
  }

  const GrammarAst& ast_;
  std::vector<RuleFacts> rules_;
  std::vector<size_t> order_;
  std::vector<int64_t> cost_, node_cost_;
  GrammarPlan plan_;
};

// Takes away what leads nowhere, and finds the rules that may be empty.
class Trimmer {
 public:
  explicit Trimmer(GrammarProgram& program) : p_(program), alive_(p_.states.size()), nullable_(p_.states.size()) {}

  void run(const GrammarAst& ast) {
    constexpr const char* kDead = "no text can match: every way through the grammar is endless or empty";
    settle(alive_, [&](const GrammarState& s) { return is_alive(s); });
    for (int32_t rule = 0; rule < ast.rule_count(); ++rule)
      if (const std::string& place = ast.rule(rule).place; !place.empty() && !is_alive_rule(rule))
        fail(ErrorCode::kInvalidArgument, "{}: {}", place, kDead);
    if (!alive_[p_.rules[p_.root].first_state]) fail(ErrorCode::kInvalidArgument, "{}", kDead);
    settle(nullable_, [&](const GrammarState& s) { return is_nullable(s); });
    filter();
    for (GrammarRule& rule : p_.rules) rule.nullable = nullable_[rule.first_state];
  }

 private:
  // The least fixed point. States are numbered breadth first, so going backwards needs few rounds.
  template <class F>
  void settle(std::vector<bool>& facts, F&& holds) {
    for (bool changed = true; changed;) {
      changed = false;
      for (size_t s = p_.states.size(); s-- > 0;) {
        if (facts[s] || !holds(p_.states[s])) continue;
        facts[s] = changed = true;
      }
    }
  }

  bool is_alive(const GrammarState& s) const {
    if (s.accept) return true;
    for (uint32_t e = s.edges; e < s.edges_end; ++e)
      if (alive_[p_.edges[e].target]) return true;
    for (uint32_t e = s.tokens; e < s.tokens_end; ++e)
      if (alive_[p_.tokens[e].target]) return true;
    for (uint32_t e = s.calls; e < s.calls_end; ++e)
      if (alive_[p_.rules[p_.calls[e].rule].first_state] && alive_[p_.calls[e].target]) return true;
    return false;
  }

  bool is_alive_rule(int32_t rule) const { return alive_[p_.rules[static_cast<size_t>(rule)].first_state]; }

  bool is_nullable(const GrammarState& s) const {
    if (p_.accepts(s, 0)) return true;
    for (uint32_t e = s.calls; e < s.calls_end; ++e)
      if (nullable_[p_.rules[p_.calls[e].rule].first_state] && nullable_[p_.calls[e].target]) return true;
    return false;
  }

  void filter() {
    std::vector<GrammarEdge> edges;
    std::vector<GrammarCall> calls;
    std::vector<GrammarTokenEdge> tokens;
    for (GrammarState& s : p_.states) {
      auto keep = [](auto& from, auto& to, uint32_t& begin, uint32_t& end, auto&& wanted) {
        const auto start = static_cast<uint32_t>(to.size());
        for (uint32_t i = begin; i < end; ++i)
          if (wanted(from[i])) to.push_back(from[i]);
        begin = start;
        end = static_cast<uint32_t>(to.size());
      };
      keep(p_.edges, edges, s.edges, s.edges_end, [&](const GrammarEdge& e) { return alive_[e.target]; });
      keep(p_.tokens, tokens, s.tokens, s.tokens_end, [&](const GrammarTokenEdge& e) { return alive_[e.target]; });
      keep(p_.calls, calls, s.calls, s.calls_end,
           [&](const GrammarCall& e) { return alive_[e.target] && alive_[p_.rules[e.rule].first_state]; });
      s.last = s.accept && s.loop < 0 && s.edges == s.edges_end && s.calls == s.calls_end && s.tokens == s.tokens_end;
    }
    p_.edges = std::move(edges);
    p_.calls = std::move(calls);
    p_.tokens = std::move(tokens);
  }

  GrammarProgram& p_;
  std::vector<bool> alive_, nullable_;
};

}  // namespace

int32_t GrammarProgram::count_after(const GrammarState& from, int32_t count, const GrammarEdge& edge) const {
  if ((edge.op & kEdgeExit) && count < loops[static_cast<size_t>(from.loop)].min) return -1;
  const int32_t loop = states[edge.target].loop;
  if (loop < 0) return 0;
  if (edge.op & kEdgeEnter) count = 0;
  if (!(edge.op & kEdgeCount)) return count;
  const auto [min, max] = loops[static_cast<size_t>(loop)];
  if (max == GrammarAst::kUnbounded) return std::min(count + 1, min);
  return count < max ? count + 1 : -1;
}

GrammarProgram build_program(GrammarAst ast) {
  if (ast.rule_count() > kMaxRules)
    fail(ErrorCode::kUnsupported, "the grammar has {} rules; at most {} are supported", ast.rule_count(), kMaxRules);
  const GrammarPlan plan = Planner(ast).run();
  GrammarProgram program;
  program.root = static_cast<uint32_t>(ast.root);
  // Rules that are inlined everywhere are not built; building one may add rules.
  for (int32_t rule = 0; rule < ast.rule_count(); ++rule) {
    program.rules.push_back(
        {.name = ast.rule(rule).name, .json = ast.rule(rule).json, .any_length = ast.rule(rule).any_length});
    const bool inlined = static_cast<size_t>(rule) < plan.inlined.size() && plan.inlined[static_cast<size_t>(rule)];
    if (!inlined || rule == ast.root) {
      determinize_rule(program, ast, plan, rule);
    } else {
      program.rules.back().first_state = static_cast<uint32_t>(program.states.size());
      program.states.emplace_back().rule = static_cast<uint32_t>(rule);
      program.rules.back().state_count = 1;
    }
  }
  Trimmer(program).run(ast);
  program.first.resize(program.states.size());
  for (size_t s = 0; s < program.states.size(); ++s)
    for (uint32_t e = program.states[s].edges; e < program.states[s].edges_end; ++e)
      for (size_t byte = program.edges[e].first; byte <= program.edges[e].last; ++byte) program.first[s].set(byte);
  return program;
}

std::vector<ByteSet> follow_sets(const GrammarProgram& p) {
  std::vector<ByteSet> first = p.first;  // with what calls begin with
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t s = p.states.size(); s-- > 0;) {
      ByteSet set = first[s];
      for (uint32_t c = p.states[s].calls; c < p.states[s].calls_end; ++c) {
        const GrammarRule& called = p.rules[p.calls[c].rule];
        set |= first[called.first_state];
        if (called.nullable) set |= first[p.calls[c].target];
      }
      if (set == first[s]) continue;
      first[s] = set;
      changed = true;
    }
  }
  // A rule may end after a call when the rest of its states may be empty: any state that accepts, or whose calls may
  // all be empty. Taking every target's own caller too is more than needed, and still finite.
  std::vector<ByteSet> follow(p.rules.size());
  for (bool changed = true; changed;) {
    changed = false;
    for (const GrammarState& s : p.states) {
      for (uint32_t c = s.calls; c < s.calls_end; ++c) {
        const GrammarCall& call = p.calls[c];
        ByteSet set = follow[call.rule] | first[call.target];
        const GrammarState& target = p.states[call.target];
        if (target.accept || target.calls < target.calls_end) set |= follow[s.rule];
        if (set == follow[call.rule]) continue;
        follow[call.rule] = set;
        changed = true;
      }
    }
  }
  return follow;
}

}  // namespace tessera
