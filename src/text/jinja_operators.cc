#include "text/jinja_operators.h"

#include <cmath>
#include <limits>

#include "text/jinja_access.h"
#include "text/jinja_format.h"
#include "text/jinja_print.h"
#include "text/jinja_unicode.h"

namespace tessera::jinja {

namespace {

[[noreturn]] void overflow() {
  raise("integer overflow: the template computes a number of more than 128 bits");
}

const char* symbol(BinaryOperator op) {
  static constexpr const char* kSymbols[] = {"+", "-", "*", "/", "//", "%", "** or pow()"};
  return kSymbols[static_cast<int>(op)];
}

[[noreturn]] void unsupported(BinaryOperator op, const Value& a, const Value& b) {
  raise("unsupported operand type(s) for {}: '{}' and '{}'", symbol(op), type_name(a), type_name(b));
}

// Exact where either side is an integer beyond 53 bits: long double holds 64 bits, wider ones are compared as doubles.
int order_numbers(const Value& a, const Value& b) {
  if (a.is_integer() && b.is_integer()) return a.as_int() < b.as_int() ? -1 : a.as_int() > b.as_int();
  long double x = a.is_integer() ? static_cast<long double>(a.as_int()) : a.as_float();
  long double y = b.is_integer() ? static_cast<long double>(b.as_int()) : b.as_float();
  return x < y ? -1 : x > y ? 1 : x == y ? 0 : 2;  // 2: unordered
}

bool equal_items(Runtime& rt, const std::vector<Value>& a, const std::vector<Value>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!equal(rt, a[i], b[i])) return false;
  }
  return true;
}

bool equal_dicts(Runtime& rt, const DictObject& a, const DictObject& b) {
  if (a.entries.size() != b.entries.size()) return false;
  for (const auto& [key, value] : a.entries) {
    const Value* other = b.find(rt, key);
    if (other == nullptr || !equal(rt, value, *other)) return false;
  }
  return true;
}

Int floor_divide(Int a, Int b) {
  if (b == -1 && a == std::numeric_limits<Int>::min()) overflow();
  Int q = a / b;
  return a % b != 0 && (a % b < 0) != (b < 0) ? q - 1 : q;
}

Int floor_modulo(Int a, Int b) {
  if (b == -1) return 0;
  Int r = a % b;
  return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}

Value integer_power(Int base, Int exponent) {
  if (exponent < 0) {
    if (base == 0) raise("0.0 cannot be raised to a negative power");
    return Value::real(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  }
  Int result = 1;
  while (exponent > 0) {
    if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) overflow();
    exponent >>= 1;
    if (exponent > 0 && (base == 0 || base == 1)) return Value::integer(base == 0 ? 0 : result);
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) overflow();
  }
  return Value::integer(result);
}

Value integer_operation(BinaryOperator op, Int a, Int b) {
  Int result = 0;
  switch (op) {
    case BinaryOperator::kAdd:
      if (__builtin_add_overflow(a, b, &result)) overflow();
      return Value::integer(result);
    case BinaryOperator::kSubtract:
      if (__builtin_sub_overflow(a, b, &result)) overflow();
      return Value::integer(result);
    case BinaryOperator::kMultiply:
      if (__builtin_mul_overflow(a, b, &result)) overflow();
      return Value::integer(result);
    case BinaryOperator::kDivide:
      if (b == 0) raise("division by zero");
      return Value::real(static_cast<double>(static_cast<long double>(a) / static_cast<long double>(b)));
    case BinaryOperator::kFloorDivide:
      if (b == 0) raise("integer division or modulo by zero");
      return Value::integer(floor_divide(a, b));
    case BinaryOperator::kModulo:
      if (b == 0) raise("integer modulo by zero");
      return Value::integer(floor_modulo(a, b));
    case BinaryOperator::kPower:
      return integer_power(a, b);
  }
  return Value::none();
}

// Python's float_divmod: the remainder has the sign of the divisor and the quotient is the floor.
double float_modulo(double a, double b) {
  double mod = std::fmod(a, b);
  if (mod != 0) return (b < 0) != (mod < 0) ? mod + b : mod;
  return std::copysign(0.0, b);
}

double float_floor_divide(double a, double b) {
  double mod = std::fmod(a, b);
  double quotient = (a - mod) / b;
  if (mod != 0 && (b < 0) != (mod < 0)) quotient -= 1.0;
  if (quotient == 0) return std::copysign(0.0, a / b);
  double floored = std::floor(quotient);
  return quotient - floored > 0.5 ? floored + 1.0 : floored;
}

Value float_operation(BinaryOperator op, double a, double b) {
  switch (op) {
    case BinaryOperator::kAdd:
      return Value::real(a + b);
    case BinaryOperator::kSubtract:
      return Value::real(a - b);
    case BinaryOperator::kMultiply:
      return Value::real(a * b);
    case BinaryOperator::kDivide:
      if (b == 0) raise("float division by zero");
      return Value::real(a / b);
    case BinaryOperator::kFloorDivide:
      if (b == 0) raise("float floor division by zero");
      return Value::real(float_floor_divide(a, b));
    case BinaryOperator::kModulo:
      if (b == 0) raise("float modulo");
      return Value::real(float_modulo(a, b));
    case BinaryOperator::kPower: {
      if (a == 0 && b < 0) raise("0.0 cannot be raised to a negative power");
      if (a < 0 && std::isfinite(b) && b != std::floor(b) && std::isfinite(a))
        raise("complex numbers are not supported");
      double result = std::pow(a, b);
      if (std::isinf(result) && std::isfinite(a) && std::isfinite(b)) raise("numerical result out of range");
      return Value::real(result);
    }
  }
  return Value::none();
}

Value repeat(Runtime& rt, const Value& value, Int times) {
  if (value.is_string()) {
    Builder out(rt);
    out.append_repeated(value.text(), times);
    return out.value(value.is_markup());
  }
  const std::vector<Value>& items = value.items();
  std::vector<Value> all;
  if (times > 0 && !items.empty()) {
    Int total = 0;
    if (__builtin_mul_overflow(static_cast<Int>(items.size()), times, &total)) overflow();
    if (total > std::numeric_limits<int64_t>::max() / 64) overflow();
    rt.charge_memory(total * static_cast<Int>(sizeof(Value)));
    rt.step(static_cast<int64_t>(total));
    all.reserve(static_cast<size_t>(total));
    for (Int i = 0; i < times; ++i) all.insert(all.end(), items.begin(), items.end());
  }
  return value.is(Kind::kList) ? rt.list(std::move(all)) : rt.tuple(std::move(all));
}

}  // namespace

bool truthy(Runtime& rt, const Value& value) {
  switch (value.kind()) {
    case Kind::kMissing:
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBool:
    case Kind::kInt:
      return value.as_int() != 0;
    case Kind::kFloat:
      return value.as_float() != 0;
    case Kind::kString:
      return !value.text().empty();
    case Kind::kList:
    case Kind::kTuple:
      return !value.items().empty();
    case Kind::kDict:
      return !value.dict().entries.empty();
    case Kind::kDictView:
    case Kind::kRange:
    case Kind::kLoop:
      return length(rt, value).as_int() != 0;
    default:
      return true;
  }
}

bool equal(Runtime& rt, const Value& a, const Value& b) {
  Runtime::Depth depth(rt);
  rt.step();
  if (a.is_number() && b.is_number()) return order_numbers(a, b) == 0;
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return true;
    case Kind::kString:
      return a.bytes() == b.bytes();
    case Kind::kList:
    case Kind::kTuple:
      return a.identity() == b.identity() || equal_items(rt, a.items(), b.items());
    case Kind::kDict:
      return a.identity() == b.identity() || equal_dicts(rt, a.dict(), b.dict());
    case Kind::kRange: {
      auto& x = a.as<RangeObject>();
      auto& y = b.as<RangeObject>();
      Int n = x.length();
      return n == y.length() && (n == 0 || (x.start == y.start && (n == 1 || x.step == y.step)));
    }
    case Kind::kFunction: {
      auto& x = a.as<FunctionObject>();
      auto& y = b.as<FunctionObject>();
      return x.function == y.function && x.self.kind() == y.self.kind() &&
             (x.self.kind() <= Kind::kFloat || x.self.identity() == y.self.identity());
    }
    default:
      return a.identity() == b.identity();
  }
}

bool compare(Runtime& rt, CompareOperator op, const Value& a, const Value& b) {
  switch (op) {
    case CompareOperator::kEqual:
      return equal(rt, a, b);
    case CompareOperator::kNotEqual:
      return !equal(rt, a, b);
    case CompareOperator::kIn:
      return contains(rt, b, a);
    case CompareOperator::kNotIn:
      return !contains(rt, b, a);
    default:
      break;
  }
  Runtime::Depth depth(rt);
  rt.step();
  bool or_equal = op == CompareOperator::kLessEqual || op == CompareOperator::kGreaterEqual;
  bool wants_less = op == CompareOperator::kLess || op == CompareOperator::kLessEqual;
  auto from_order = [&](int order) {
    if (order == 2) return false;
    return order == 0 ? or_equal : (order < 0) == wants_less;
  };
  if (a.is_number() && b.is_number()) return from_order(order_numbers(a, b));
  if (a.is_string() && b.is_string()) return from_order(a.bytes().compare(b.bytes()));
  if (a.is_sequence() && a.kind() == b.kind()) {
    const auto& x = a.items();
    const auto& y = b.items();
    for (size_t i = 0; i < x.size() && i < y.size(); ++i) {
      if (!equal(rt, x[i], y[i])) return compare(rt, op, x[i], y[i]);
    }
    return from_order(x.size() < y.size() ? -1 : x.size() > y.size());
  }
  reject_undefined(a);
  reject_undefined(b);
  static constexpr const char* kSymbols[] = {"==", "!=", "<", "<=", ">", ">="};
  raise("'{}' not supported between instances of '{}' and '{}'", kSymbols[static_cast<int>(op)], type_name(a),
        type_name(b));
}

bool less(Runtime& rt, const Value& a, const Value& b) {
  return compare(rt, CompareOperator::kLess, a, b);
}

bool contains(Runtime& rt, const Value& container, const Value& item) {
  rt.step();
  switch (container.kind()) {
    case Kind::kString:
      if (!item.is_string()) raise("'in <string>' requires string as left operand, not {}", type_name(item));
      return search(rt, container.bytes(), item.bytes()) != std::string_view::npos;
    case Kind::kDict:
      return container.dict().find(rt, item) != nullptr;
    case Kind::kDictView: {
      auto& view = container.as<DictViewObject>();
      if (view.what == DictViewObject::What::kKeys) return view.dict.dict().find(rt, item) != nullptr;
      break;
    }
    case Kind::kRange: {
      auto& range = container.as<RangeObject>();
      if (!item.is_integer()) break;
      Int offset = item.as_int();
      if (__builtin_sub_overflow(offset, range.start, &offset)) return false;
      return offset % range.step == 0 && offset / range.step >= 0 && offset / range.step < range.length();
    }
    default:
      break;
  }
  if (!is_iterable(container)) raise("argument of type '{}' is not iterable", type_name(container));
  Value each;
  for (Iteration it(rt, container); it.next(&each);) {
    if (equal(rt, each, item)) return true;
  }
  return false;
}

bool is_hashable(Runtime& rt, const Value& value) {
  Runtime::Depth depth(rt);
  switch (value.kind()) {
    case Kind::kList:
    case Kind::kDict:
    case Kind::kDictView:
      return false;
    case Kind::kTuple:
      for (const Value& item : value.items()) {
        if (!is_hashable(rt, item)) return false;
      }
      return true;
    default:
      return true;
  }
}

const Value* DictObject::find(Runtime& rt, const Value& key) const {
  if (key.is_string()) return find(key.bytes());
  if (!is_hashable(rt, key)) raise("unhashable type: '{}'", type_name(key));
  if (other_keys_ == 0) return nullptr;
  for (const auto& [k, value] : entries) {
    if (!k.is_string() && equal(rt, k, key)) return &value;
  }
  return nullptr;
}

void DictObject::set(Runtime& rt, const Value& key, const Value& value) {
  if (const Value* found = find(rt, key)) {
    *const_cast<Value*>(found) = value;  // ours: find() is const for readers
    return;
  }
  rt.charge_memory(2 * sizeof(Value) + 64);
  entries.emplace_back(key, value);
  if (!key.is_string()) ++other_keys_;
}

Value binary(Runtime& rt, BinaryOperator op, const Value& a, const Value& b) {
  if (a.is_string() && op == BinaryOperator::kModulo) return format_percent(rt, a, b);
  reject_undefined(a);
  reject_undefined(b);
  if (a.is_integer() && b.is_integer()) return integer_operation(op, a.as_int(), b.as_int());
  if (a.is_number() && b.is_number()) return float_operation(op, a.as_float(), b.as_float());
  if (op == BinaryOperator::kAdd) {
    if (a.is_string() && b.is_string()) return concatenate(rt, a, b);
    if (a.is_sequence() && a.kind() == b.kind()) {
      std::vector<Value> all = a.items();
      all.insert(all.end(), b.items().begin(), b.items().end());
      return a.is(Kind::kList) ? rt.list(std::move(all)) : rt.tuple(std::move(all));
    }
    if (a.is_string()) raise("can only concatenate str (not \"{}\") to str", type_name(b));
    if (a.is_sequence()) raise("can only concatenate {0} (not \"{1}\") to {0}", type_name(a), type_name(b));
  }
  if (op == BinaryOperator::kMultiply) {
    bool left = a.is_string() || a.is_sequence();
    if (left && b.is_integer()) return repeat(rt, a, b.as_int());
    if ((b.is_string() || b.is_sequence()) && a.is_integer()) return repeat(rt, b, a.as_int());
  }
  unsupported(op, a, b);
}

Value negate(const Value& value) {
  reject_undefined(value);
  if (value.is(Kind::kFloat)) return Value::real(-value.as_float());
  if (!value.is_integer()) raise("bad operand type for unary -: '{}'", type_name(value));
  if (value.as_int() == std::numeric_limits<Int>::min()) overflow();
  return Value::integer(-value.as_int());
}

Value positive(const Value& value) {
  reject_undefined(value);
  if (value.is(Kind::kFloat)) return value;
  if (!value.is_integer()) raise("bad operand type for unary +: '{}'", type_name(value));
  return Value::integer(value.as_int());
}

Int float_to_integer(double value) {
  if (std::isnan(value)) raise("cannot convert float NaN to integer");
  if (std::isinf(value)) raise("cannot convert float infinity to integer");
  if (std::fabs(value) >= 0x1p127) overflow();
  return static_cast<Int>(value);
}

Value length(Runtime& rt, const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return Value::integer(0);
    case Kind::kString:
      rt.step(static_cast<int64_t>(value.bytes().size() / 64));
      return Value::integer(unicode::length(value.bytes()));
    case Kind::kList:
    case Kind::kTuple:
      return Value::integer(static_cast<Int>(value.items().size()));
    case Kind::kDict:
      return Value::integer(static_cast<Int>(value.dict().entries.size()));
    case Kind::kDictView:
      return Value::integer(static_cast<Int>(value.as<DictViewObject>().dict.dict().entries.size()));
    case Kind::kRange:
      return Value::integer(value.as<RangeObject>().length());
    case Kind::kLoop:
      return rt.loop_attribute(value, "length");
    default:
      raise("object of type '{}' has no len()", type_name(value));
  }
}

Value concatenate(Runtime& rt, const Value& a, const Value& b) {
  bool markup = a.is_markup() || b.is_markup();
  Value left = markup ? escape_html(rt, a) : a;
  Value right = markup ? escape_html(rt, b) : b;
  Builder out(rt);
  out.append(left.text());
  out.append(right.text());
  return out.value(markup);
}

Value escape_html(Runtime& rt, const Value& value) {
  if (value.is_markup()) return value;
  Builder plain(rt);
  append_str(rt, value, &plain);
  const Text& text = plain.text();
  rt.step(static_cast<int64_t>(text.size() / 8));
  Builder out(rt);
  size_t copied = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const char* entity = nullptr;
    switch (text.bytes()[i]) {
      case '&':
        entity = "&amp;";
        break;
      case '<':
        entity = "&lt;";
        break;
      case '>':
        entity = "&gt;";
        break;
      case '\'':
        entity = "&#39;";
        break;
      case '"':
        entity = "&#34;";
        break;
      default:
        continue;
    }
    out.append(text, copied, i);
    out.append(entity, text.marks_at(i));
    copied = i + 1;
  }
  out.append(text, copied, text.size());
  return out.value(true);
}

}  // namespace tessera::jinja
