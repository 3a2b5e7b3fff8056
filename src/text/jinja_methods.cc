// Methods of dicts, lists, tuples and ranges. Those that would change a value are refused by the sandbox.
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

constexpr Method kDictMethods[] = {
    {"items", dict_items}, {"keys", dict_keys}, {"values", dict_values},
    {"get", dict_get},     {"copy", dict_copy}, {"fromkeys", dict_fromkeys},
};

constexpr Method kListMethods[] = {{"copy", list_copy}, {"count", list_count}, {"index", list_index}};

}  // namespace

NativeFunction find_dict_method(std::string_view name) {
  for (const Method& method : kDictMethods) {
    if (name == method.name) return method.function;
  }
  return nullptr;
}

NativeFunction find_list_method(std::string_view name) {
  for (const Method& method : kListMethods) {
    if (name == method.name) return method.function;
  }
  return nullptr;
}

}  // namespace tessera::jinja
