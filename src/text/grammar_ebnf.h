// EBNF as llama.cpp (GBNF) and xgrammar write it:
//
//   root ::= item ("," item)*      # a comment
//   item ::= [a-z]+ | "text\n" | (root | .){2,5}
//
// Names are letters, digits, - and _; a rule ends where the next `name ::=` begins. In literals and classes the escapes
// of a regex's class are understood. Thread-safe.
#pragma once

#include <string_view>

#include "text/grammar_ast.h"

namespace tessera {

// Adds the rules; the result is `root`'s. Throws kInvalidArgument and kUnsupported, with the line.
int32_t ebnf_rules(GrammarAst& ast, std::string_view text);

}  // namespace tessera
