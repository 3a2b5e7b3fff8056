// JSON numbers within bounds, as grammar nodes. Thread-safe.
#pragma once

#include <optional>
#include <string>

#include "core/json.h"
#include "text/grammar_ast.h"

namespace tessera {

struct NumberBound {
  OrderedJson value;  // a number
  bool exclusive = false;
};

// Integers have at most 18 digits. Throws kUnsupported, starting with `path`, for bounds beyond that.
GrammarAst::Node integer_node(GrammarAst& ast, const std::optional<NumberBound>& low,
                              const std::optional<NumberBound>& high, const std::string& path);
// At most 18 digits before the point and 17 after it; without bounds also an exponent of up to two digits.
GrammarAst::Node number_node(GrammarAst& ast, const std::optional<NumberBound>& low,
                             const std::optional<NumberBound>& high, const std::string& path);

}  // namespace tessera
