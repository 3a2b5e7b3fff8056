// Constrained decoding: what a text may be (JSON schema, regex, EBNF), compiled for a tokenizer's vocabulary into masks
// of the tokens that may come next.
//
// A grammar is a set of rules over bytes and special tokens. Rules without calls are deterministic automata ("leaves":
// strings, numbers, patterns), the others call rules, recursion included; they are followed by an Earley parser whose
// frames persist, so that taking tokens back is cheap. Most tokens are decided inside one leaf, whatever surrounds it:
// those masks are computed once (grammar_leaf.h), and only what follows the leaf's end is looked at for each token.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "text/tokenizer.h"

namespace tessera {

class GrammarAst;
struct GrammarProgram;
struct VocabularyIndex;

// A tokenizer's tokens by their bytes. Immutable, thread-safe, cheap to copy. About 20 MB at V = 201,088.
class GrammarVocabulary {
 public:
  // V: width of a mask; ids without a token in the tokenizer are never allowed. `also_special`: further tokens that
  // text never matches, such as tags.
  GrammarVocabulary(const Tokenizer& tokenizer, int64_t vocab_size, std::span<const int32_t> also_special = {});
  // tokens[id]: its bytes; empty: none. special[id]: never matched by text.
  GrammarVocabulary(std::vector<std::string> tokens, std::vector<bool> special);

  int64_t size() const;
  const std::shared_ptr<const VocabularyIndex>& index() const { return index_; }

 private:
  std::shared_ptr<const VocabularyIndex> index_;
};

// Immutable and thread-safe, cheap to copy.
class CompiledGrammar {
 public:
  // All throw kInvalidArgument for a mistake and kUnsupported for what it does not know, naming the place. `end_ids`
  // are tokens of which one must follow the text, before a matcher has ended(); none: the text may just stop.
  //
  // JSON schema, draft 2020-12. What may come out is valid under the schema, but not all that is valid can come out:
  // properties come in the schema's order, and those it does not declare only where additionalProperties says so.
  static CompiledGrammar json_schema(const OrderedJson& schema, const GrammarVocabulary& vocabulary,
                                     std::span<const int32_t> end_ids);
  // Any JSON object.
  static CompiledGrammar json_object(const GrammarVocabulary& vocabulary, std::span<const int32_t> end_ids);
  // The whole text matches. Classes, groups, alternation, counted repeats, ^ and $ at the ends, \d \w \s, \p{L}.
  static CompiledGrammar regex(std::string_view pattern, const GrammarVocabulary& vocabulary,
                               std::span<const int32_t> end_ids);
  // llama.cpp's GBNF and xgrammar's EBNF; the rule `root` is the text.
  static CompiledGrammar ebnf(std::string_view text, const GrammarVocabulary& vocabulary,
                              std::span<const int32_t> end_ids);
  // The general form: `ast` is consumed.
  static CompiledGrammar compile(GrammarAst ast, const GrammarVocabulary& vocabulary);

  const GrammarProgram& program() const { return *program_; }
  const std::shared_ptr<const GrammarProgram>& shared_program() const { return program_; }

 private:
  std::shared_ptr<const GrammarProgram> program_;
};

// Follows one text. Not thread-safe; copies are independent.
class GrammarMatcher {
 public:
  static constexpr int64_t kMaxRollback = 64;  // tokens

  explicit GrammarMatcher(CompiledGrammar grammar);
  GrammarMatcher(const GrammarMatcher&);
  GrammarMatcher& operator=(const GrammarMatcher&);
  GrammarMatcher(GrammarMatcher&&) noexcept;
  GrammarMatcher& operator=(GrammarMatcher&&) noexcept;
  ~GrammarMatcher();

  // See TokenConstraint (engine/token_constraint.h). mask: ceil(V / 32) words, all written. Throw kUnsupported for a
  // grammar too ambiguous to follow.
  void fill_mask(std::span<uint32_t> mask);
  bool accept(int32_t id);
  // Bytes of text, whatever tokens they come in; counts as one token for rollback().
  bool accept_text(std::string_view text);
  void rollback(int64_t tokens);
  // The text may stop here.
  bool can_end() const;
  // Nothing may follow.
  bool ended() const;
  // The bytes that must come next, at most `most`: no other continuation exists. Empty where there is a choice.
  std::string forced_text(size_t most = 256) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tessera
