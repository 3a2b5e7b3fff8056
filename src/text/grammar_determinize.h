// The deterministic automaton of one rule (subset construction), appended to a program. Not thread-safe.
#pragma once

#include <cstdint>

#include "text/grammar_nfa.h"
#include "text/grammar_program.h"

namespace tessera {

// Adds the states of `rule` to the program; calls and tokens count as symbols of the alphabet. A repetition that cannot
// be counted, because a byte could both continue and leave it, is unrolled. Throws kUnsupported when there are too many
// states.
void determinize_rule(GrammarProgram& program, GrammarAst& ast, const GrammarPlan& plan, int32_t rule);

}  // namespace tessera
