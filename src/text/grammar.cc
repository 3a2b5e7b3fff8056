#include "text/grammar.h"

#include "core/error.h"
#include "text/grammar_ast.h"
#include "text/grammar_ebnf.h"
#include "text/grammar_leaf.h"
#include "text/grammar_machine.h"
#include "text/grammar_mask.h"
#include "text/grammar_program.h"
#include "text/grammar_regex.h"
#include "text/grammar_schema.h"
#include "text/grammar_vocabulary.h"

namespace tessera {

namespace {

constexpr int64_t kPrepareNodes = 2000000;  // of the vocabulary's tree, walked while compiling: about 10 ms

// What may follow a JSON value wherever one stands, so that the same leaf in two schemas is the same leaf.
ByteSet json_follow() {
  ByteSet set;
  for (char c : std::string_view(",:]} \n\r\t")) set.set(static_cast<uint8_t>(c));
  return set;
}

GrammarAst::Node end_node(GrammarAst& ast, std::span<const int32_t> end_ids) {
  if (end_ids.empty()) return ast.empty();
  std::vector<GrammarAst::Node> ends;
  for (int32_t id : end_ids) ends.push_back(ast.token(id));
  return ast.alt(std::move(ends));
}

// A rule for the whole text: `rule` and an end.
void set_root(GrammarAst& ast, int32_t rule, std::span<const int32_t> end_ids) {
  ast.root = ast.add_rule("the text");
  ast.define(ast.root, ast.seq({ast.call(rule), end_node(ast, end_ids)}));
}

void make_leaves(GrammarProgram& p) {
  const std::vector<ByteSet> follow = follow_sets(p);
  int64_t budget = kPrepareNodes;
  for (size_t r = 0; r < p.rules.size(); ++r) {
    GrammarRule& rule = p.rules[r];
    bool leaf = true, reads = false;
    for (uint32_t s = 0; s < rule.state_count; ++s) {
      const GrammarState& state = p.states[rule.first_state + s];
      leaf &= state.calls == state.calls_end;
      reads |= state.edges < state.edges_end;
    }
    if (!leaf || !reads) continue;
    rule.leaf = static_cast<int32_t>(p.leaves.size());
    const ByteSet after = rule.json ? follow[r] | json_follow() : follow[r];
    auto fresh = std::make_shared<LeafMasks>(p, rule, after);
    p.leaves.push_back(p.vocabulary->shared_leaf(fresh->key(), fresh));
    for (uint32_t s = 0; s < rule.state_count; ++s) {
      GrammarState& state = p.states[rule.first_state + s];
      state.masked = !rule.any_length || state.loop >= 0;
    }
    p.leaves.back()->prepare(*p.vocabulary, budget);
  }
}

}  // namespace

GrammarVocabulary::GrammarVocabulary(std::vector<std::string> tokens, std::vector<bool> special)
    : index_(std::make_shared<VocabularyIndex>(std::move(tokens), special)) {
  // Strings and numbers are in every schema: their masks are made here, and stay.
  GrammarAst ast;
  const int32_t object = json_object_rule(ast);
  set_root(ast, object, {});
  CompiledGrammar::compile(std::move(ast), *this);
}

GrammarVocabulary::GrammarVocabulary(const Tokenizer& tokenizer, int64_t vocab_size,
                                     std::span<const int32_t> also_special)
    : GrammarVocabulary(
          [&] {
            std::vector<std::string> tokens(static_cast<size_t>(vocab_size));
            const auto known = std::min<int64_t>(vocab_size, tokenizer.vocab_size());
            for (int64_t id = 0; id < known; ++id)
              tokens[static_cast<size_t>(id)] = tokenizer.token_bytes(static_cast<int32_t>(id));
            return tokens;
          }(),
          [&] {
            std::vector<bool> special(static_cast<size_t>(vocab_size));
            for (int64_t id = 0; id < vocab_size; ++id)
              special[static_cast<size_t>(id)] =
                  id < tokenizer.vocab_size() && tokenizer.is_special(static_cast<int32_t>(id));
            for (int32_t id : also_special) special[static_cast<size_t>(id)] = true;
            return special;
          }()) {}

int64_t GrammarVocabulary::size() const {
  return index_->size;
}

CompiledGrammar CompiledGrammar::compile(GrammarAst ast, const GrammarVocabulary& vocabulary) {
  auto program = std::make_shared<GrammarProgram>(build_program(std::move(ast)));
  program->vocabulary = vocabulary.index();
  make_leaves(*program);
  CompiledGrammar out;
  out.program_ = std::move(program);
  return out;
}

CompiledGrammar CompiledGrammar::json_schema(const OrderedJson& schema, const GrammarVocabulary& vocabulary,
                                             std::span<const int32_t> end_ids) {
  GrammarAst ast;
  set_root(ast, schema_rule(ast, schema), end_ids);
  return compile(std::move(ast), vocabulary);
}

CompiledGrammar CompiledGrammar::json_object(const GrammarVocabulary& vocabulary, std::span<const int32_t> end_ids) {
  GrammarAst ast;
  set_root(ast, json_object_rule(ast), end_ids);
  return compile(std::move(ast), vocabulary);
}

CompiledGrammar CompiledGrammar::regex(std::string_view pattern, const GrammarVocabulary& vocabulary,
                                       std::span<const int32_t> end_ids) {
  GrammarAst ast;
  const int32_t rule = ast.add_rule("the pattern");
  ast.define(rule, regex_node(ast, pattern, {}).node);
  ast.rule(rule).apart = true;
  set_root(ast, rule, end_ids);
  return compile(std::move(ast), vocabulary);
}

CompiledGrammar CompiledGrammar::ebnf(std::string_view text, const GrammarVocabulary& vocabulary,
                                      std::span<const int32_t> end_ids) {
  GrammarAst ast;
  const int32_t rule = ebnf_rules(ast, text);
  ast.rule(rule).apart = true;
  set_root(ast, rule, end_ids);
  return compile(std::move(ast), vocabulary);
}

struct GrammarMatcher::Impl {
  CompiledGrammar grammar;
  GrammarMachine machine;
};

GrammarMatcher::GrammarMatcher(CompiledGrammar grammar)
    : impl_(new Impl{grammar, GrammarMachine(grammar.shared_program())}) {}
GrammarMatcher::GrammarMatcher(const GrammarMatcher& other) : impl_(new Impl(*other.impl_)) {}
GrammarMatcher& GrammarMatcher::operator=(const GrammarMatcher& other) {
  if (this != &other) impl_ = std::make_unique<Impl>(*other.impl_);
  return *this;
}
GrammarMatcher::GrammarMatcher(GrammarMatcher&&) noexcept = default;
GrammarMatcher& GrammarMatcher::operator=(GrammarMatcher&&) noexcept = default;
GrammarMatcher::~GrammarMatcher() = default;

void GrammarMatcher::fill_mask(std::span<uint32_t> mask) {
  MaskWalk(impl_->machine, mask).run();
}

bool GrammarMatcher::accept(int32_t id) {
  const VocabularyIndex& vocabulary = *impl_->machine.program().vocabulary;
  if (id < 0 || id >= vocabulary.size) return false;
  if (impl_->machine.step_token(id)) {
    impl_->machine.forget(kMaxRollback + 1);
    return true;
  }
  return accept_text(vocabulary.bytes(id));
}

bool GrammarMatcher::accept_text(std::string_view text) {
  GrammarMachine& machine = impl_->machine;
  if (text.empty()) return false;
  const size_t before = machine.positions();
  for (char c : text) {
    if (machine.step(static_cast<uint8_t>(c))) continue;
    machine.truncate(before);
    return false;
  }
  machine.squash(before);
  machine.forget(kMaxRollback + 1);
  return true;
}

void GrammarMatcher::rollback(int64_t tokens) {
  GrammarMachine& machine = impl_->machine;
  TS_CHECK(tokens >= 0 && static_cast<size_t>(tokens) < machine.positions(), "{} tokens back", tokens);
  machine.truncate(machine.positions() - static_cast<size_t>(tokens));
}

bool GrammarMatcher::can_end() const {
  return impl_->machine.can_end();
}

bool GrammarMatcher::ended() const {
  GrammarMachine& machine = impl_->machine;
  if (!machine.can_end() || machine.has_token_edges()) return false;
  const ByteSet next = machine.next_bytes();  // some of them may be forbidden by a loop's maximum
  const size_t before = machine.positions();
  for (size_t byte = 0; byte < 256; ++byte) {
    if (!next[byte] || !machine.step(static_cast<uint8_t>(byte))) continue;
    machine.truncate(before);
    return false;
  }
  return true;
}

std::string GrammarMatcher::forced_text(size_t most) const {
  GrammarMachine& machine = impl_->machine;
  const size_t before = machine.positions();
  std::string text;
  while (text.size() < most && !machine.can_end() && !machine.has_token_edges()) {
    const ByteSet next = machine.next_bytes();
    if (next.count() != 1) break;
    const auto byte = static_cast<uint8_t>(next._Find_first());
    if (!machine.step(byte)) break;
    text += static_cast<char>(byte);
  }
  machine.truncate(before);
  return text;
}

}  // namespace tessera
