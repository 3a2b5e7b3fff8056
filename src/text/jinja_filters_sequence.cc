// Filters on lists, dicts and whatever else can be iterated over.
#include <algorithm>
#include <functional>

#include "text/jinja_access.h"
#include "text/jinja_builtins.h"
#include "text/jinja_operators.h"
#include "text/jinja_print.h"
#include "text/jinja_unicode.h"

namespace tessera::jinja {

namespace {

struct Generator : IteratorObject {
  explicit Generator(std::function<bool(Runtime&, Value*)> s) : source(std::move(s)) {}
  bool next(Runtime& rt, Value* item) override { return source(rt, item); }
  std::function<bool(Runtime&, Value*)> source;
};

Value generate(Runtime& rt, std::function<bool(Runtime&, Value*)> source) {
  return rt.iterator(rt.make<Generator>(std::move(source)));
}

// Starts only when the first item is asked for, as Python's generators: so do its errors.
Value delayed(Runtime& rt, std::function<Value(Runtime&)> start) {
  return generate(rt, [start = std::move(start), inner = Value()](Runtime& r, Value* item) mutable {
    if (inner.is_missing()) inner = start(r);
    return inner.as<IteratorObject>().next(r, item);
  });
}

Value lower_case(Runtime& rt, const Value& value) {
  return value.is_string() ? find_string_method("lower")(rt, value, {}) : value;
}

// What `attribute=` names: "a.b" or 3, one step after the other; digits in text are an index.
class Getter {
 public:
  Getter(Runtime& rt, const Value& attribute, const Value& otherwise = Value()) : otherwise_(otherwise) {
    if (attribute.is_none() || attribute.is_missing()) return;
    if (!attribute.is_string()) {
      steps_.push_back(attribute);
      return;
    }
    std::string_view path = attribute.bytes();
    while (true) {
      size_t dot = std::min(path.find('.'), path.size());
      steps_.push_back(step(rt, path.substr(0, dot)));
      if (dot == path.size()) break;
      path.remove_prefix(dot + 1);
    }
  }

  Value get(Runtime& rt, Value item) const {
    for (const Value& step : steps_) {
      item = get_item(rt, item, step);
      if (item.is_undefined() && !otherwise_.is_missing() && !otherwise_.is_none()) item = otherwise_;
    }
    return item;
  }

 private:
  static Value step(Runtime& rt, std::string_view name) {
    bool digits = !name.empty() && name.size() < 19 && name.find_first_not_of("0123456789") == std::string_view::npos;
    if (!digits) return rt.string(name);
    Int index = 0;
    for (char c : name) index = index * 10 + (c - '0');
    return Value::integer(index);
  }

  Value otherwise_;
  std::vector<Value> steps_;
};

// Stable, as Python's sorted() also when reversed.
void sort_by_keys(Runtime& rt, std::vector<std::pair<Value, Value>>* keyed, bool reverse) {
  std::stable_sort(keyed->begin(), keyed->end(), [&](const auto& a, const auto& b) {
    return reverse ? less(rt, b.first, a.first) : less(rt, a.first, b.first);
  });
}

bool flag(Runtime& rt, const Bound& bound, size_t i) {
  return bound.has(i) && truthy(rt, bound[i]);
}

Value filter_first(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("first", args, {});
  Value item;
  Iteration it(rt, self);
  return it.next(&item) ? item : rt.undefined("No first item, sequence was empty.");
}

Value filter_last(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("last", args, {});
  if (self.is_sequence() || self.is_string() || self.is(Kind::kRange)) {
    Value found = get_item(rt, self, Value::integer(-1));
    return found.is_undefined() ? rt.undefined("No last item, sequence was empty.") : found;
  }
  if (!self.is_undefined() && !self.is(Kind::kDict) && !self.is(Kind::kDictView)) {
    raise("'{}' object is not reversible", type_name(self));
  }
  std::vector<Value> items = to_vector(rt, self);
  return items.empty() ? rt.undefined("No last item, sequence was empty.") : items.back();
}

Value filter_list(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("list", args, {});
  return rt.list(to_vector(rt, self));
}

Value filter_reverse(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("reverse", args, {});
  if (self.is_string()) return get_slice(rt, self, Value::none(), Value::none(), Value::integer(-1));
  if (!is_iterable(self)) raise("argument must be iterable");
  std::vector<Value> items = to_vector(rt, self);
  std::reverse(items.begin(), items.end());
  if (self.is(Kind::kIterator) || self.is(Kind::kLoop)) return rt.list(std::move(items));
  Value list = rt.list(std::move(items));
  return generate(rt, [list, at = size_t{0}](Runtime&, Value* item) mutable {
    if (at >= list.items().size()) return false;
    *item = list.items()[at++];
    return true;
  });
}

Value filter_join(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("join", args, {"d", "attribute"});
  Getter getter(rt, bound.get(1, Value::none()));
  Value separator = bound.has(0) ? to_str(rt, bound[0]) : rt.string("");
  Builder out(rt);
  Value item;
  bool first = true;
  for (Iteration it(rt, self); it.next(&item);) {
    if (!std::exchange(first, false)) out.append(separator.text());
    append_str(rt, getter.get(rt, item), &out);
  }
  return out.value();
}

Value filter_items(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("items", args, {});
  if (!self.is_undefined() && !self.is(Kind::kDict)) {
    return generate(rt, [](Runtime&, Value*) -> bool { raise("Can only get item pairs from a mapping."); });
  }
  return generate(rt, [self, at = size_t{0}](Runtime& r, Value* item) mutable {
    if (self.is_undefined() || at >= self.dict().entries.size()) return false;
    const auto& [key, value] = self.dict().entries[at++];
    *item = r.tuple({key, value});
    return true;
  });
}

Value filter_dictsort(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("dictsort", args, {"case_sensitive", "by", "reverse"});
  std::string_view by = bound.has(1) && bound[1].is_string() ? bound[1].bytes() : bound.has(1) ? "" : "key";
  if (by != "key" && by != "value") raise("You can only sort by either \"key\" or \"value\"");
  reject_undefined(self);
  if (!self.is(Kind::kDict)) raise("'{}' object has no attribute 'items'", type_name(self));
  std::vector<std::pair<Value, Value>> keyed;
  for (const auto& [key, value] : self.dict().entries) {
    const Value& order = by == "key" ? key : value;
    keyed.emplace_back(flag(rt, bound, 0) ? order : lower_case(rt, order), rt.tuple({key, value}));
  }
  sort_by_keys(rt, &keyed, flag(rt, bound, 2));
  std::vector<Value> sorted;
  for (const auto& [key, pair] : keyed) sorted.push_back(pair);
  return rt.list(std::move(sorted));
}

Value filter_sort(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("sort", args, {"reverse", "case_sensitive", "attribute"});
  std::vector<Getter> getters;
  if (bound.has(2) && bound[2].is_string()) {
    std::string_view paths = bound[2].bytes();
    while (true) {
      size_t comma = std::min(paths.find(','), paths.size());
      getters.emplace_back(rt, rt.string(paths.substr(0, comma)));
      if (comma == paths.size()) break;
      paths.remove_prefix(comma + 1);
    }
  } else {
    getters.emplace_back(rt, bound.get(2, Value::none()));
  }
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& item : to_vector(rt, self)) {
    std::vector<Value> key;
    for (const Getter& getter : getters) {
      Value part = getter.get(rt, item);
      key.push_back(flag(rt, bound, 1) ? part : lower_case(rt, part));
    }
    keyed.emplace_back(rt.list(std::move(key)), item);
  }
  sort_by_keys(rt, &keyed, flag(rt, bound, 0));
  std::vector<Value> sorted;
  for (const auto& [key, item] : keyed) sorted.push_back(item);
  return rt.list(std::move(sorted));
}

Value unique_items(Runtime& rt, const Value& source, const Getter& getter, bool exact) {
  auto* seen = rt.make<DictObject>();
  return generate(rt, [=, items = Iteration(rt, source)](Runtime& r, Value* item) mutable {
    while (items.next(item)) {
      Value key = getter.get(r, *item);
      if (!exact) key = lower_case(r, key);
      if (!key.is_string()) r.step(static_cast<int64_t>(seen->entries.size()));
      if (seen->find(r, key) != nullptr) continue;
      seen->set(r, key, Value::none());
      return true;
    }
    return false;
  });
}

Value filter_unique(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("unique", args, {"case_sensitive", "attribute"});
  Getter getter(rt, bound.get(1, Value::none()));
  bool exact = flag(rt, bound, 0);
  return delayed(rt, [=](Runtime& r) { return unique_items(r, self, getter, exact); });
}

Value smallest(Runtime& rt, const char* name, const Value& self, const Args& args, bool largest) {
  Bound bound(name, args, {"case_sensitive", "attribute"});
  Getter getter(rt, bound.get(1, Value::none()));
  Value item, best, best_key;
  for (Iteration it(rt, self); it.next(&item);) {
    Value key = getter.get(rt, item);
    if (!flag(rt, bound, 0)) key = lower_case(rt, key);
    bool better = best_key.is_missing() || (largest ? less(rt, best_key, key) : less(rt, key, best_key));
    if (!better) continue;
    best = item;
    best_key = key;
  }
  return best_key.is_missing() ? rt.undefined("No aggregated item, sequence was empty.") : best;
}

Value filter_min(Runtime& rt, const Value& self, const Args& args) {
  return smallest(rt, "min", self, args, false);
}
Value filter_max(Runtime& rt, const Value& self, const Args& args) {
  return smallest(rt, "max", self, args, true);
}

Value filter_sum(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("sum", args, {"attribute", "start"});
  Getter getter(rt, bound.get(0, Value::none()));
  Value total = bound.get(1, Value::integer(0));
  if (total.is_string()) raise("sum() can't sum strings [use ''.join(seq) instead]");
  Value item;
  for (Iteration it(rt, self); it.next(&item);) total = binary(rt, BinaryOperator::kAdd, total, getter.get(rt, item));
  return total;
}

// Rows of `count` items; the check comes before an item is added, so a count of 0 makes one empty row first.
struct Batches {
  Value all, count, fill;
  size_t at = 0;
  std::vector<Value> row;
  bool resumed = false;

  bool operator()(Runtime& rt, Value* out) {
    const auto& items = all.items();
    if (std::exchange(resumed, false)) row.assign(1, items[at++]);
    for (; at < items.size(); ++at) {
      if (equal(rt, Value::integer(static_cast<Int>(row.size())), count)) {
        *out = rt.list(row);
        return resumed = true;
      }
      row.push_back(items[at]);
    }
    if (row.empty()) return false;
    if (!fill.is_none() && less(rt, Value::integer(static_cast<Int>(row.size())), count)) {
      Int missing = need_integer(count, "linecount") - static_cast<Int>(row.size());
      rt.charge_memory(std::min<Int>(missing, Int{1} << 60) * static_cast<Int>(sizeof(Value)));
      row.insert(row.end(), static_cast<size_t>(missing), fill);
    }
    *out = rt.list(std::exchange(row, {}));
    return true;
  }
};

Value filter_batch(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("batch", args, {"linecount", "fill_with"}, 1);
  Value count = bound[0];
  Value fill = bound.get(1, Value::none());
  return delayed(rt, [=](Runtime& r) {
    Batches batches;
    batches.all = r.list(to_vector(r, self));
    batches.count = count;
    batches.fill = fill;
    return generate(r, batches);
  });
}

struct Slices {
  Value all, fill;
  Int slices = 0;
  Int number = 0;

  bool operator()(Runtime& rt, Value* out) {
    if (number >= slices) return false;
    const auto& items = all.items();
    auto length = static_cast<Int>(items.size());
    Int each = length / slices;
    Int longer = length % slices;
    auto begin = static_cast<std::ptrdiff_t>(number * each + std::min(number, longer));
    auto size = static_cast<std::ptrdiff_t>(each + (number < longer ? 1 : 0));
    std::vector<Value> part(items.begin() + begin, items.begin() + begin + size);
    if (!fill.is_none() && number >= longer) part.push_back(fill);
    ++number;
    *out = rt.list(std::move(part));
    return true;
  }
};

Value filter_slice(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("slice", args, {"slices", "fill_with"}, 1);
  Value count = bound[0];
  Value fill = bound.get(1, Value::none());
  return delayed(rt, [=](Runtime& r) {
    Slices slices;
    slices.all = r.list(to_vector(r, self));
    slices.fill = fill;
    slices.slices = need_integer(count, "slices");
    if (slices.slices == 0) raise("integer division or modulo by zero");
    return generate(r, slices);
  });
}

Value filter_groupby(Runtime& rt, const Value& self, const Args& args) {
  Bound bound("groupby", args, {"attribute", "default", "case_sensitive"}, 1);
  Getter getter(rt, bound[0], bound.get(1, Value::none()));
  bool exact = flag(rt, bound, 2);
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& item : to_vector(rt, self)) {
    Value key = getter.get(rt, item);
    keyed.emplace_back(exact ? key : lower_case(rt, key), item);
  }
  sort_by_keys(rt, &keyed, false);
  std::vector<Value> groups;
  for (size_t i = 0; i < keyed.size();) {
    std::vector<Value> members;
    size_t first = i;
    for (; i < keyed.size() && equal(rt, keyed[i].first, keyed[first].first); ++i) members.push_back(keyed[i].second);
    Value name = exact ? keyed[first].first : getter.get(rt, keyed[first].second);
    Value group = rt.tuple({name, rt.list(std::move(members))});
    group.as<ListObject>().group = true;
    groups.push_back(group);
  }
  return rt.list(std::move(groups));
}

// ---- map, select, reject: they look at their arguments when the first item is asked for.

Args without_first(const Args& args, size_t count) {
  Args rest = args;
  rest.positional.erase(rest.positional.begin(),
                        rest.positional.begin() + static_cast<std::ptrdiff_t>(std::min(count, rest.positional.size())));
  return rest;
}

std::string function_name(const Value& value, const char* what) {
  return std::string(need_text(value, what).bytes());
}

Value map_now(Runtime& rt, const Value& self, const Args& args) {
  if (!truthy(rt, self)) return generate(rt, [](Runtime&, Value*) { return false; });
  auto attribute =
      std::find_if(args.named.begin(), args.named.end(), [](const auto& n) { return n.first == "attribute"; });
  if (args.positional.empty() && attribute != args.named.end()) {
    Value otherwise;
    for (const auto& [name, value] : args.named) {
      if (name == "default") {
        otherwise = value;
      } else if (name != "attribute") {
        raise("Unexpected keyword argument '{}'", name);
      }
    }
    Getter getter(rt, attribute->second, otherwise);
    return generate(rt, [getter, items = Iteration(rt, self)](Runtime& r, Value* item) mutable {
      if (!items.next(item)) return false;
      *item = getter.get(r, *item);
      return true;
    });
  }
  if (args.positional.empty()) raise("map requires a filter argument");
  std::string name = function_name(args.positional[0], "map's filter");
  return generate(rt,
                  [name, rest = without_first(args, 1), items = Iteration(rt, self)](Runtime& r, Value* item) mutable {
                    if (!items.next(item)) return false;
                    *item = run_filter(r, name, *item, rest);
                    return true;
                  });
}

Value filter_map(Runtime& rt, const Value& self, const Args& args) {
  return delayed(rt, [=](Runtime& r) { return map_now(r, self, args); });
}

Value select_now(Runtime& rt, const Value& self, const Args& args, bool wanted, bool by_attribute) {
  if (!truthy(rt, self)) return generate(rt, [](Runtime&, Value*) { return false; });
  size_t offset = by_attribute ? 1 : 0;
  if (args.positional.size() < offset) raise("Missing parameter for attribute name");
  Getter getter(rt, by_attribute ? args.positional[0] : Value::none());
  std::string test;
  if (args.positional.size() > offset) test = function_name(args.positional[offset], "select's test");
  bool has_test = args.positional.size() > offset;
  Args rest = without_first(args, offset + 1);
  return generate(rt, [=, items = Iteration(rt, self)](Runtime& r, Value* item) mutable {
    while (items.next(item)) {
      Value value = getter.get(r, *item);
      if ((has_test ? run_test(r, test, value, rest) : truthy(r, value)) == wanted) return true;
    }
    return false;
  });
}

Value select(Runtime& rt, const Value& self, const Args& args, bool wanted, bool by_attribute) {
  return delayed(rt, [=](Runtime& r) { return select_now(r, self, args, wanted, by_attribute); });
}

Value filter_select(Runtime& rt, const Value& self, const Args& args) {
  return select(rt, self, args, true, false);
}
Value filter_reject(Runtime& rt, const Value& self, const Args& args) {
  return select(rt, self, args, false, false);
}
Value filter_selectattr(Runtime& rt, const Value& self, const Args& args) {
  return select(rt, self, args, true, true);
}
Value filter_rejectattr(Runtime& rt, const Value& self, const Args& args) {
  return select(rt, self, args, false, true);
}

}  // namespace

const std::vector<NamedFunction>& sequence_filters() {
  static const std::vector<NamedFunction> kTable = {
      {"batch", filter_batch},
      {"dictsort", filter_dictsort},
      {"first", filter_first},
      {"groupby", filter_groupby},
      {"items", filter_items},
      {"join", filter_join},
      {"last", filter_last},
      {"list", filter_list},
      {"map", filter_map},
      {"max", filter_max},
      {"min", filter_min},
      {"reject", filter_reject},
      {"rejectattr", filter_rejectattr},
      {"reverse", filter_reverse},
      {"select", filter_select},
      {"selectattr", filter_selectattr},
      {"slice", filter_slice},
      {"sort", filter_sort},
      {"sum", filter_sum},
      {"unique", filter_unique},
  };
  return kTable;
}

}  // namespace tessera::jinja
