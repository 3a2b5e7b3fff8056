// Python's operators on template values: truth, equality, order, arithmetic, membership, length.
#pragma once

#include "text/jinja_runtime.h"

namespace tessera::jinja {

enum class BinaryOperator : uint8_t { kAdd, kSubtract, kMultiply, kDivide, kFloorDivide, kModulo, kPower };
enum class CompareOperator : uint8_t { kEqual, kNotEqual, kLess, kLessEqual, kGreater, kGreaterEqual, kIn, kNotIn };

bool truthy(Runtime& rt, const Value& value);
bool equal(Runtime& rt, const Value& a, const Value& b);
bool less(Runtime& rt, const Value& a, const Value& b);  // a < b; fails on kinds without an order
bool compare(Runtime& rt, CompareOperator op, const Value& a, const Value& b);
bool contains(Runtime& rt, const Value& container, const Value& item);
bool is_hashable(Runtime& rt, const Value& value);
Value binary(Runtime& rt, BinaryOperator op, const Value& a, const Value& b);
Value negate(const Value& value);
Value positive(const Value& value);
Int float_to_integer(double value);  // towards zero; fails on nan, infinity and overflow
Value length(Runtime& rt, const Value& value);
// `a + b` of two texts, where Markup escapes the side that is not Markup.
Value concatenate(Runtime& rt, const Value& a, const Value& b);
Value escape_html(Runtime& rt, const Value& value);  // MarkupSafe's escape(): a Markup string

}  // namespace tessera::jinja
