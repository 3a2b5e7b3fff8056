// Methods of numbers, dicts, lists, tuples and ranges. Those that would change a value are refused by the sandbox.
#include <cmath>

#include "text/jinja_access.h"
#include "text/jinja_operators.h"

namespace tessera::jinja {

namespace {

constexpr auto kPositional = Bound::kPositionalOnly;

Value view(Runtime& rt, const char* name, const Value& self, const Args& args, DictViewObject::What what) {
  Bound bound(name, args, {});
  return Value::object(Kind::kDictView, rt.make<DictViewObject>(self, what));
}

Value dict_items(Runtime& rt, const Value& self, const Args& args) {
  return view(rt, "items", self, args, DictViewObject::What::kItems);
}

Value dict_keys(Runtime& rt, const Value& self, const Args& args) {
  return view(rt, "keys", self, args, DictViewObject::What::kKeys);
}

Value dict_values(Runtime& rt, const Value& self, const Args& args) {
  return view(rt, "values", self, args, DictViewObject::What::kValues);
}

Value dict_get(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("get", args, {"key", "default"}, 1, kPositional);
  const Value* found = self.dict().find(rt, bound[0]);
  return found != nullptr ? *found : bound.get(1, Value::none());
}

Value dict_copy(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("copy", args, {});
  auto* copy = rt.make<DictObject>();
  for (const auto& [key, value] : self.dict().entries) copy->set(rt, key, value);
  return Value::object(Kind::kDict, copy);
}

Value dict_fromkeys(Runtime& rt, const Value&, const Args& args) {
  Bound bound("fromkeys", args, {"iterable", "value"}, 1, kPositional);
  auto* dict = rt.make<DictObject>();
  Value key;
  for (Iteration it(rt, bound[0]); it.next(&key);) dict->set(rt, key, bound.get(1, Value::none()));
  return Value::object(Kind::kDict, dict);
}

Value list_copy(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("copy", args, {});
  return rt.list(self.items());
}

Value list_count(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("count", args, {"value"}, 1, kPositional);
  Int count = 0;
  Value item;
  for (Iteration it(rt, self); it.next(&item);) count += equal(rt, item, bound[0]);
  return Value::integer(count);
}

Value list_index(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("index", args, {"value", "start", "stop"}, 1, kPositional);
  auto count = static_cast<int64_t>(length(rt, self).as_int());
  auto clip = [&](size_t i, int64_t otherwise) {
    if (!bound.has(i)) return otherwise;
    int64_t at = need_size(bound[i], "index");
    return at < 0 ? std::max<int64_t>(at + count, 0) : at;
  };
  int64_t start = clip(1, 0);
  int64_t stop = clip(2, count);
  Value item;
  int64_t at = 0;
  for (Iteration it(rt, self); at < stop && it.next(&item); ++at) {
    if (at >= start && equal(rt, item, bound[0])) return Value::integer(at);
  }
  raise("value is not in {}", self.is(Kind::kList) ? "list" : "tuple");
}

Value number_conjugate(Runtime&, const Value& self, const Args& args) {
  Bound bound("conjugate", args, {});
  return self.is(Kind::kFloat) ? self : Value::integer(self.as_int());
}

Value float_is_integer(Runtime&, const Value& self, const Args& args) {
  Bound bound("is_integer", args, {});
  return Value::boolean(std::isfinite(self.as_float()) && std::floor(self.as_float()) == self.as_float());
}

unsigned __int128 magnitude(const Value& value) {
  Int i = value.as_int();
  return i < 0 ? -static_cast<unsigned __int128>(i) : static_cast<unsigned __int128>(i);
}

Value int_bit_length(Runtime&, const Value& self, const Args& args) {
  Bound bound("bit_length", args, {});
  Int bits = 0;
  for (auto rest = magnitude(self); rest != 0; rest >>= 1) ++bits;
  return Value::integer(bits);
}

Value int_bit_count(Runtime&, const Value& self, const Args& args) {
  Bound bound("bit_count", args, {});
  Int bits = 0;
  for (auto rest = magnitude(self); rest != 0; rest >>= 1) bits += static_cast<Int>(rest & 1);
  return Value::integer(bits);
}

constexpr Method kDictMethods[] = {
    {"items", dict_items}, {"keys", dict_keys}, {"values", dict_values},
    {"get", dict_get},     {"copy", dict_copy}, {"fromkeys", dict_fromkeys},
};

constexpr Method kListMethods[] = {{"copy", list_copy}, {"count", list_count}, {"index", list_index}};

constexpr Method kIntMethods[] = {
    {"conjugate", number_conjugate}, {"bit_length", int_bit_length}, {"bit_count", int_bit_count}};
constexpr Method kFloatMethods[] = {{"conjugate", number_conjugate}, {"is_integer", float_is_integer}};

template <size_t N>
NativeFunction find_in(const Method (&methods)[N], std::string_view name) {
  for (const Method& method : methods) {
    if (name == method.name) return method.function;
  }
  return nullptr;
}

}  // namespace

NativeFunction find_int_method(std::string_view name) {
  return find_in(kIntMethods, name);
}
NativeFunction find_float_method(std::string_view name) {
  return find_in(kFloatMethods, name);
}
NativeFunction find_dict_method(std::string_view name) {
  return find_in(kDictMethods, name);
}
NativeFunction find_list_method(std::string_view name) {
  return find_in(kListMethods, name);
}

}  // namespace tessera::jinja
