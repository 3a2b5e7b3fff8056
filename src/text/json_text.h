// JSON values as text in the two spellings that chat prompts contain. Invalid UTF-8 in strings becomes U+FFFD.
// Thread-safe.
#pragma once

#include <string>

#include "core/json.h"

namespace tessera {

enum class JsonStyle {
  kCompact,  // {"a":1,"b":[1.5,1e16]} as Rust's serde_json writes
  kPython,   // {"a": 1, "b": [1.5, 1e+16]} as Python's json.dumps(ensure_ascii=False) writes
};

// The deepest nesting of arrays and objects that is read from a request: schemas, defaults, arguments.
inline constexpr int kMaxJsonDepth = 100;
// Throws kInvalidArgument, starting with `what`, when `value` nests deeper than kMaxJsonDepth.
void check_json_depth(const OrderedJson& value, const std::string& what);
// Throws kInvalidArgument when `value` nests deeper than kMaxJsonDepth.
std::string json_text(const OrderedJson& value, JsonStyle style);

}  // namespace tessera
