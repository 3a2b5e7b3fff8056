// The tests behind `is`.
#include "text/jinja_builtins.h"
#include "text/jinja_operators.h"
#include "text/jinja_print.h"
#include "text/jinja_unicode.h"

namespace tessera::jinja {

namespace {

void no_arguments(const char* name, const Args& args) {
  Bound bound(name, args, {});
}

template <Kind kKind>
Value is_kind(Runtime&, const Value& self, const Args& args) {
  no_arguments("the test", args);
  return Value::boolean(self.is(kKind));
}

Value is_defined(Runtime&, const Value& self, const Args& args) {
  no_arguments("defined", args);
  return Value::boolean(!self.is_undefined());
}

Value is_true(Runtime&, const Value& self, const Args& args) {
  no_arguments("true", args);
  return Value::boolean(self.is(Kind::kBool) && self.as_bool());
}

Value is_false(Runtime&, const Value& self, const Args& args) {
  no_arguments("false", args);
  return Value::boolean(self.is(Kind::kBool) && !self.as_bool());
}

Value is_number(Runtime&, const Value& self, const Args& args) {
  no_arguments("number", args);
  return Value::boolean(self.is_number());
}

Value is_sequence(Runtime&, const Value& self, const Args& args) {
  no_arguments("sequence", args);
  bool sized =
      self.is_undefined() || self.is_string() || self.is_sequence() || self.is(Kind::kDict) || self.is(Kind::kRange);
  return Value::boolean(sized);
}

Value is_iterable_test(Runtime&, const Value& self, const Args& args) {
  no_arguments("iterable", args);
  return Value::boolean(is_iterable(self));
}

Value is_callable(Runtime&, const Value& self, const Args& args) {
  no_arguments("callable", args);
  switch (self.kind()) {
    case Kind::kUndefined:
    case Kind::kFunction:
    case Kind::kMacro:
    case Kind::kLoop:
    case Kind::kJoiner:
      return Value::boolean(true);
    default:
      return Value::boolean(false);
  }
}

Value is_escaped(Runtime&, const Value& self, const Args& args) {
  no_arguments("escaped", args);
  return Value::boolean(self.is_markup());
}

bool has_case(Runtime& rt, const Value& value, bool (*wanted)(uint32_t), bool (*other)(uint32_t)) {
  Builder text(rt);
  append_str(rt, value, &text);
  rt.step(static_cast<int64_t>(text.text().size() / 2));
  bool any = false;
  for (size_t i = 0; i < text.text().size();) {
    uint32_t c = 0;
    i += unicode::decode(text.text().bytes(), i, &c);
    if (other(c) || unicode::is_title(c)) return false;
    any |= wanted(c);
  }
  return any;
}

Value is_lower(Runtime& rt, const Value& self, const Args& args) {
  no_arguments("lower", args);
  return Value::boolean(has_case(rt, self, unicode::is_lower, unicode::is_upper));
}

Value is_upper(Runtime& rt, const Value& self, const Args& args) {
  no_arguments("upper", args);
  return Value::boolean(has_case(rt, self, unicode::is_upper, unicode::is_lower));
}

Value remainder(Runtime& rt, const Value& self, const Value& divisor) {
  return binary(rt, BinaryOperator::kModulo, self, divisor);
}

Value is_odd(Runtime& rt, const Value& self, const Args& args) {
  no_arguments("odd", args);
  return Value::boolean(equal(rt, remainder(rt, self, Value::integer(2)), Value::integer(1)));
}

Value is_even(Runtime& rt, const Value& self, const Args& args) {
  no_arguments("even", args);
  return Value::boolean(equal(rt, remainder(rt, self, Value::integer(2)), Value::integer(0)));
}

Value is_divisible_by(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("divisibleby", args, {"num"}, 1);
  return Value::boolean(equal(rt, remainder(rt, self, bound[0]), Value::integer(0)));
}

// Small values have no identity of their own: equal ones of one type are the same.
Value is_same_as(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("sameas", args, {"other"}, 1);
  if (self.kind() != bound[0].kind()) return Value::boolean(false);
  bool small = self.kind() <= Kind::kString && !self.is_undefined();
  return Value::boolean(small ? equal(rt, self, bound[0]) : self.identity() == bound[0].identity());
}

Value is_in(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("in", args, {"seq"}, 1);
  return Value::boolean(contains(rt, bound[0], self));
}

template <CompareOperator kOperator>
Value is_compared(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("comparison", args, {"other"}, 1, Bound::kPositionalOnly);
  return Value::boolean(compare(rt, kOperator, self, bound[0]));
}

Value is_filter(Runtime& rt, const Value& self, const Args& args) {
  no_arguments("filter", args);
  if (!is_hashable(rt, self)) raise("unhashable type: '{}'", type_name(self));
  return Value::boolean(self.is_string() && find_filter(self.bytes()) != nullptr);
}

Value is_test(Runtime& rt, const Value& self, const Args& args) {
  no_arguments("test", args);
  if (!is_hashable(rt, self)) raise("unhashable type: '{}'", type_name(self));
  return Value::boolean(self.is_string() && find_test(self.bytes()) != nullptr);
}

constexpr NamedFunction kTests[] = {
    {"defined", is_defined},
    {"undefined", is_kind<Kind::kUndefined>},
    {"none", is_kind<Kind::kNone>},
    {"string", is_kind<Kind::kString>},
    {"mapping", is_kind<Kind::kDict>},
    {"iterable", is_iterable_test},
    {"sequence", is_sequence},
    {"boolean", is_kind<Kind::kBool>},
    {"true", is_true},
    {"false", is_false},
    {"number", is_number},
    {"integer", is_kind<Kind::kInt>},
    {"float", is_kind<Kind::kFloat>},
    {"callable", is_callable},
    {"divisibleby", is_divisible_by},
    {"escaped", is_escaped},
    {"even", is_even},
    {"odd", is_odd},
    {"lower", is_lower},
    {"upper", is_upper},
    {"sameas", is_same_as},
    {"in", is_in},
    {"filter", is_filter},
    {"test", is_test},
    {"==", is_compared<CompareOperator::kEqual>},
    {"eq", is_compared<CompareOperator::kEqual>},
    {"equalto", is_compared<CompareOperator::kEqual>},
    {"!=", is_compared<CompareOperator::kNotEqual>},
    {"ne", is_compared<CompareOperator::kNotEqual>},
    {"<", is_compared<CompareOperator::kLess>},
    {"lt", is_compared<CompareOperator::kLess>},
    {"lessthan", is_compared<CompareOperator::kLess>},
    {"<=", is_compared<CompareOperator::kLessEqual>},
    {"le", is_compared<CompareOperator::kLessEqual>},
    {">", is_compared<CompareOperator::kGreater>},
    {"gt", is_compared<CompareOperator::kGreater>},
    {"greaterthan", is_compared<CompareOperator::kGreater>},
    {">=", is_compared<CompareOperator::kGreaterEqual>},
    {"ge", is_compared<CompareOperator::kGreaterEqual>},
};

}  // namespace

NativeFunction find_test(std::string_view name) {
  for (const NamedFunction& entry : kTests) {
    if (name == entry.name) return entry.function;
  }
  return nullptr;
}

bool run_test(Runtime& rt, std::string_view name, const Value& value, const Args& args) {
  NativeFunction test = find_test(name);
  if (test == nullptr) raise("No test named '{}'.", name);
  rt.step();
  return test(rt, value, args).as_bool();
}

}  // namespace tessera::jinja
