// What must hold for every grammar, as functions that tests and fuzz targets call.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/json.h"

namespace tessera {

// A schema, regex or EBNF text from strangers (the first byte says which; see kGrammarKinds) compiles or is refused
// with an Error, and what compiles holds check_walk()'s promises. Returns what went wrong, or nothing.
std::string check_grammar_text(std::string_view data);
inline constexpr std::string_view kGrammarKinds = "jre";

// A schema drawn from the seed, and a value drawn under its masks, token by token:
//   - a token's bit is set exactly when the token is accepted;
//   - tokens taken back leave no trace;
//   - there is always a next token, until the text has ended;
//   - the text parses, and holds under the schema (by a validator that shares no code with the grammar).
std::string check_random_schema(uint64_t seed);
OrderedJson random_schema(uint64_t seed);

// Whether a value holds under a schema, for the keywords that random_schema() uses.
bool holds_under(const OrderedJson& value, const OrderedJson& schema);

}  // namespace tessera
