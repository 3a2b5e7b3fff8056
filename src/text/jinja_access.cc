#include "text/jinja_access.h"

#include <algorithm>
#include <limits>

#include "text/jinja_interpreter.h"
#include "text/jinja_operators.h"
#include "text/jinja_print.h"
#include "text/jinja_unicode.h"

namespace tessera::jinja {

namespace {

std::string object_name(const Value& object) {
  if (object.is_none()) return "None";
  return type_name(object) + " object";
}

Value missing_attribute(Runtime& rt, const Value& object, std::string_view name) {
  return rt.undefined(fmt::format("'{}' has no attribute '{}'", object_name(object), name));
}

Value missing_item(Runtime& rt, const Value& object, const Value& key) {
  if (key.is_string()) return missing_attribute(rt, object, key.bytes());
  Builder shown(rt);
  append_repr(rt, key, &shown);
  return rt.undefined(fmt::format("{} has no element {}", object_name(object), shown.text().bytes()));
}

Value unsafe(Runtime& rt, const Value& object, std::string_view name) {
  return rt.undefined(fmt::format("access to attribute '{}' of '{}' object is unsafe.", name, type_name(object)));
}

bool is_one_of(std::string_view name, std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// Methods that would change a value: the immutable sandbox hides them, also where a dict has a key of that name.
bool mutates(const Value& object, std::string_view name) {
  if (object.is(Kind::kDict)) return is_one_of(name, {"clear", "pop", "popitem", "setdefault", "update"});
  if (!object.is(Kind::kList)) return false;
  return is_one_of(name, {"append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"});
}

Value cycler_next(Runtime&, const Value& self, const Args& args) {
  Bound bound("next", args, {});
  auto& cycler = self.as<CyclerObject>();
  Value current = cycler.items[cycler.at];
  cycler.at = (cycler.at + 1) % cycler.items.size();
  return current;
}

Value cycler_reset(Runtime&, const Value& self, const Args& args) {
  Bound bound("reset", args, {});
  self.as<CyclerObject>().at = 0;
  return Value::none();
}

Value number_attribute(const Value& object, std::string_view name) {
  bool real = object.is(Kind::kFloat);
  if (name == "real") return real ? object : Value::integer(object.as_int());
  if (name == "imag") return real ? Value::real(0) : Value::integer(0);
  if (!real && name == "numerator") return Value::integer(object.as_int());
  if (!real && name == "denominator") return Value::integer(1);
  return Value();
}

Value range_attribute(const Value& object, std::string_view name) {
  auto& range = object.as<RangeObject>();
  if (name == "start") return Value::integer(range.start);
  if (name == "stop") return Value::integer(range.stop);
  if (name == "step") return Value::integer(range.step);
  return Value();
}

Value method(Runtime& rt, NativeFunction (*find)(std::string_view), const Value& object, std::string_view name) {
  NativeFunction function = find(name);
  return function != nullptr ? rt.function("method", function, object) : Value();
}

// getattr(object, name), or kMissing.
Value own_attribute(Runtime& rt, const Value& object, std::string_view name) {
  switch (object.kind()) {
    case Kind::kUndefined:
      if (name.size() >= 4 && name.substr(0, 2) == "__" && name.substr(name.size() - 2) == "__") return Value();
      reject_undefined(object);
      return Value();
    case Kind::kBool:
    case Kind::kInt:
    case Kind::kFloat:
      if (Value found = number_attribute(object, name); !found.is_missing()) return found;
      return method(rt, object.is(Kind::kFloat) ? find_float_method : find_int_method, object, name);
    case Kind::kString:
      return method(rt, find_string_method, object, name);
    case Kind::kDict:
      return method(rt, find_dict_method, object, name);
    case Kind::kList:
      return method(rt, find_list_method, object, name);
    case Kind::kTuple:
      if (object.as<ListObject>().group && name == "grouper") return object.items()[0];
      if (object.as<ListObject>().group && name == "list") return object.items()[1];
      return is_one_of(name, {"count", "index"}) ? method(rt, find_list_method, object, name) : Value();
    case Kind::kRange:
      if (is_one_of(name, {"count", "index"})) return method(rt, find_list_method, object, name);
      return range_attribute(object, name);
    case Kind::kNamespace: {
      const Value* found = object.as<NamespaceObject>().attributes.find(name);
      return found != nullptr ? *found : Value();
    }
    case Kind::kLoop:
      return rt.loop_attribute(object, name);
    case Kind::kMacro:
      return macro_attribute(rt, object, name);
    case Kind::kCycler: {
      auto& cycler = object.as<CyclerObject>();
      if (name == "next") return rt.function("next", cycler_next, object);
      if (name == "reset") return rt.function("reset", cycler_reset, object);
      if (name == "current") return cycler.items[cycler.at];
      if (name == "pos") return Value::integer(static_cast<Int>(cycler.at));
      return name == "items" ? rt.tuple(cycler.items) : Value();
    }
    case Kind::kJoiner:
      if (name == "sep") return object.as<JoinerObject>().separator;
      return name == "used" ? Value::boolean(object.as<JoinerObject>().used) : Value();
    default:
      return Value();
  }
}

// object[key], or kMissing where Python raises a TypeError or a LookupError.
Value own_item(Runtime& rt, const Value& object, const Value& key) {
  reject_undefined(object);
  if (object.is(Kind::kDict)) {
    if (!key.is_string() && !is_hashable(rt, key)) return Value();
    const Value* found = object.dict().find(rt, key);
    return found != nullptr ? *found : Value();
  }
  bool indexable = object.is_string() || object.is_sequence() || object.is(Kind::kRange);
  if (!indexable || !key.is_integer()) return Value();
  Int index = key.as_int();
  Int count = length(rt, object).as_int();
  if (index < 0) index += count;
  if (index < 0 || index >= count) return Value();
  if (object.is(Kind::kRange)) {
    auto& range = object.as<RangeObject>();
    return Value::integer(range.start + index * range.step);
  }
  if (object.is_sequence()) return object.items()[static_cast<size_t>(index)];
  const Text& text = object.text();
  rt.step(static_cast<int64_t>(text.size() / 64));
  size_t begin = unicode::offset(text.bytes(), static_cast<int64_t>(index));
  uint32_t c = 0;
  return rt.string(text.slice(begin, begin + unicode::decode(text.bytes(), begin, &c)), object.is_markup());
}

bool is_private(std::string_view name) {
  return !name.empty() && name[0] == '_';
}

// Every Python object has these; asking for one is refused and never falls through to an item.
bool is_dunder(std::string_view name) {
  if (name.substr(0, 2) != "__") return false;
  return is_one_of(name, {"__class__",   "__doc__",     "__init__",         "__dict__",   "__module__",
                          "__eq__",      "__ne__",      "__hash__",         "__str__",    "__repr__",
                          "__format__",  "__dir__",     "__new__",          "__reduce__", "__getattribute__",
                          "__setattr__", "__delattr__", "__subclasshook__", "__sizeof__", "__init_subclass__"});
}

}  // namespace

Value get_attribute_only(Runtime& rt, const Value& object, std::string_view name) {
  if (mutates(object, name) || is_dunder(name)) return unsafe(rt, object, name);
  Value found = own_attribute(rt, object, name);
  if (found.is_missing()) return missing_attribute(rt, object, name);
  return is_private(name) ? unsafe(rt, object, name) : found;
}

Value get_attribute(Runtime& rt, const Value& object, std::string_view name) {
  if (mutates(object, name) || (is_dunder(name) && !object.is(Kind::kNamespace))) return unsafe(rt, object, name);
  Value found = own_attribute(rt, object, name);
  if (!found.is_missing()) return is_private(name) ? unsafe(rt, object, name) : found;
  if (object.is(Kind::kDict)) {
    if (const Value* item = object.dict().find(name)) return *item;
  }
  return missing_attribute(rt, object, name);
}

Value get_item(Runtime& rt, const Value& object, const Value& key) {
  Value found = own_item(rt, object, key);
  if (!found.is_missing()) return found;
  if (!key.is_string()) return missing_item(rt, object, key);
  std::string_view name = key.bytes();
  if (mutates(object, name) || is_dunder(name)) return unsafe(rt, object, name);
  found = own_attribute(rt, object, name);
  if (found.is_missing()) return missing_attribute(rt, object, name);
  return is_private(name) ? unsafe(rt, object, name) : found;
}

Value get_item(Runtime& rt, const Value& object, std::string_view key) {
  if (object.is(Kind::kDict)) {
    if (const Value* item = object.dict().find(key)) return *item;
  }
  return get_item(rt, object, rt.string(key));
}

SliceRange clip_slice(const Value& start, const Value& stop, const Value& step, int64_t length) {
  auto bound = [](const Value& value) {
    if (!value.is_none() && !value.is_integer()) {
      reject_undefined(value);
      raise("slice indices must be integers or None, not {}", type_name(value));
    }
    return need_size(value, "slice index");
  };
  int64_t by = step.is_none() ? 1 : bound(step);
  if (by == 0) raise("slice step cannot be zero");
  by = std::max(by, -std::numeric_limits<int64_t>::max());
  auto clip = [&](const Value& value, int64_t absent) {
    if (value.is_none()) return absent;
    int64_t at = bound(value);
    if (at < 0) at = std::max<int64_t>(at + length, by < 0 ? -1 : 0);
    return std::min(at, by < 0 ? length - 1 : length);
  };
  int64_t first = clip(start, by < 0 ? length - 1 : 0);
  int64_t last = clip(stop, by < 0 ? -1 : length);
  int64_t count = 0;
  if (by > 0 && first < last) count = (last - first - 1) / by + 1;
  if (by < 0 && first > last) count = (first - last - 1) / -by + 1;
  return {first, last, by, count};
}

namespace {

Value slice_text(Runtime& rt, const Value& object, const Value& start, const Value& stop, const Value& step) {
  const Text& text = object.text();
  SliceRange range = clip_slice(start, stop, step, static_cast<int64_t>(length(rt, object).as_int()));
  Builder out(rt);
  if (range.count > 0 && range.step == 1) {
    size_t begin = unicode::offset(text.bytes(), range.start);
    std::string_view rest = std::string_view(text.bytes()).substr(begin);
    out.append(text, begin, begin + unicode::offset(rest, range.count));
  } else if (range.count > 0) {
    std::vector<size_t> starts;
    rt.charge_memory(static_cast<Int>(text.size()) * static_cast<Int>(sizeof(size_t)));
    for (size_t i = 0; i < text.size(); ++i) {
      if ((static_cast<uint8_t>(text.bytes()[i]) & 0xc0) != 0x80) starts.push_back(i);
    }
    starts.push_back(text.size());
    rt.step(static_cast<int64_t>(starts.size() / 8) + range.count);
    for (int64_t i = 0; i < range.count; ++i) {
      auto at = static_cast<size_t>(range.start + i * range.step);
      out.append(text, starts[at], starts[at + 1]);
    }
  }
  return out.value(object.is_markup());
}

}  // namespace

Value get_slice(Runtime& rt, const Value& object, const Value& start, const Value& stop, const Value& step) {
  reject_undefined(object);
  if (object.is_string()) return slice_text(rt, object, start, stop, step);
  if (object.is(Kind::kRange)) {
    auto& range = object.as<RangeObject>();
    SliceRange part = clip_slice(start, stop, step, static_cast<int64_t>(range.length()));
    return Value::object(
        Kind::kRange, rt.make<RangeObject>(range.start + part.start * range.step, range.start + part.stop * range.step,
                                           range.step * part.step));
  }
  if (!object.is_sequence()) raise("'{}' object is not subscriptable", type_name(object));
  const auto& items = object.items();
  SliceRange range = clip_slice(start, stop, step, static_cast<int64_t>(items.size()));
  std::vector<Value> part;
  part.reserve(static_cast<size_t>(range.count));
  for (int64_t i = 0; i < range.count; ++i) part.push_back(items[static_cast<size_t>(range.start + i * range.step)]);
  return object.is(Kind::kList) ? rt.list(std::move(part)) : rt.tuple(std::move(part));
}

}  // namespace tessera::jinja
