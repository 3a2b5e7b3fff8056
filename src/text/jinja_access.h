// x.name, x[key], x[a:b:c] and the methods of strings, dicts and lists, under the rules of jinja2's immutable sandbox:
// what is not there is undefined, private and mutating attributes are undefined too and fail when called.
#pragma once

#include "text/jinja_runtime.h"

namespace tessera::jinja {

Value get_attribute(Runtime& rt, const Value& object, std::string_view name);  // attribute first, then item
Value get_item(Runtime& rt, const Value& object, const Value& key);            // item first, then attribute
Value get_item(Runtime& rt, const Value& object, std::string_view key);
// Only attributes, as the `attr` filter.
Value get_attribute_only(Runtime& rt, const Value& object, std::string_view name);
// Bounds are none where absent.
Value get_slice(Runtime& rt, const Value& object, const Value& start, const Value& stop, const Value& step);

// Bounds of Python's slice over `length` items, clipped.
struct SliceRange {
  int64_t start, stop, step, count;
};
SliceRange clip_slice(const Value& start, const Value& stop, const Value& step, int64_t length);

struct Method {
  std::string_view name;
  NativeFunction function;
};
NativeFunction find_string_method(std::string_view name);  // nullptr: none of that name
NativeFunction find_int_method(std::string_view name);
NativeFunction find_float_method(std::string_view name);
NativeFunction find_dict_method(std::string_view name);
NativeFunction find_list_method(std::string_view name);

// Whitespace of both ends, or any of `chars`.
enum class Ends { kBoth, kLeft, kRight };
Text strip(Runtime& rt, const Text& text, const Text* chars, Ends ends);
// Position of `wanted` in `within` from byte `begin` on, or npos. Linear time, which is charged.
size_t search(Runtime& rt, std::string_view within, std::string_view wanted, size_t begin = 0);

}  // namespace tessera::jinja
