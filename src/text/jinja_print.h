// Values as text: Python's str() and repr(), and the JSON of transformers' tojson filter.
#pragma once

#include <string>

#include "text/jinja_runtime.h"

namespace tessera::jinja {

std::string format_integer(Int value);
std::string format_float(double value);     // shortest text that reads back, as Python's repr
std::string format_code_point(uint32_t c);  // backslash escape: \x07, \u200b, \U0001f600

void append_str(Runtime& rt, const Value& value, Builder* out);
void append_repr(Runtime& rt, const Value& value, Builder* out);
void append_ascii(Runtime& rt, const Value& value, Builder* out);  // repr with every non-ASCII character escaped
Value to_str(Runtime& rt, const Value& value);                     // str(value); Markup becomes a plain string

struct JsonStyle {
  bool ensure_ascii = false;
  bool indented = false;
  Text indent;  // of one level
  Text item_separator = Text(", ");
  Text key_separator = Text(": ");
  bool sort_keys = false;
};

// Fails on values that JSON cannot hold.
void append_json(Runtime& rt, const Value& value, const JsonStyle& style, Builder* out);

}  // namespace tessera::jinja
