// Regular expressions as grammar nodes: what JSON schema's `pattern` and people's habits have in common. Literals,
// classes, groups, alternation, ? * + {m,n} (lazy ones mean the same), ^ and $ at the ends, \d \w \s as in ASCII, \p{L}
// and other general categories, \uXXXX \u{...} \xXX. Refused by name: look-around, back-references, word boundaries,
// atomic groups, flags. Thread-safe.
#pragma once

#include <string_view>

#include "text/grammar_ast.h"

namespace tessera {

struct RegexOptions {
  bool json = false;     // the text is what stands between a JSON string's quotes, escaped where JSON says so
  bool anchored = true;  // false: the text only contains a match, where ^ and $ do not say otherwise
};

struct RegexNode {
  GrammarAst::Node node;
  int64_t shortest = 0, longest = 0;  // in characters; longest may be kUnboundedLength
  static constexpr int64_t kUnboundedLength = int64_t{1} << 40;
};

// Throws kInvalidArgument and kUnsupported, with the position.
RegexNode regex_node(GrammarAst& ast, std::string_view pattern, const RegexOptions& options);

// One character of a JSON string's inside, of these ranges; written as it is, or escaped where it must be.
GrammarAst::Node json_chars(GrammarAst& ast, const std::vector<CodeRange>& ranges);
// Any character of a JSON string, in every way that JSON can write it.
GrammarAst::Node json_any_char(GrammarAst& ast);

// The inside of [...], from after the bracket to after the closing one. Shared with EBNF.
struct ClassReader {
  std::string_view text;
  size_t at = 0;
  std::vector<CodeRange> read();  // normalized
  // An escape, from after the backslash: one character or a class such as \d.
  std::vector<CodeRange> escape(bool in_class);
  char32_t next_code();  // throws at the end and for invalid UTF-8
  [[noreturn]] void error(const char* what) const;
  char32_t hex(int digits);
};

}  // namespace tessera
