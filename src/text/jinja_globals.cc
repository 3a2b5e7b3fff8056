// Global functions.
#include <limits>

#include "text/jinja_access.h"
#include "text/jinja_builtins.h"
#include "text/jinja_format.h"
#include "text/jinja_operators.h"
#include "text/jinja_print.h"

namespace tessera::jinja {

namespace {

constexpr int kMaxRange = 100000;  // the sandbox's own limit

Value global_range(Runtime& rt, const Value&, const Args& args) {
  Bound bound("range", args, {"start", "stop", "step"}, 1, Bound::kPositionalOnly);
  auto integer = [&](size_t i) {
    Int value = need_integer(bound[i], "range() argument");
    if (value > std::numeric_limits<int64_t>::max() || value < std::numeric_limits<int64_t>::min()) {
      raise("range() argument {} is out of range", format_integer(value));
    }
    return value;
  };
  Int start = bound.has(1) ? integer(0) : 0;
  Int stop = integer(bound.has(1) ? 1 : 0);
  Int step = bound.has(2) ? integer(2) : 1;
  if (step == 0) raise("range() arg 3 must not be zero");
  auto* range = rt.make<RangeObject>(start, stop, step);
  if (range->length() > kMaxRange) {
    raise("Range too big. The sandbox blocks ranges larger than MAX_RANGE ({}).", kMaxRange);
  }
  return Value::object(Kind::kRange, range);
}

// dict(mapping or pairs, **more)
void fill_dict(Runtime& rt, const char* function, const Args& args, DictObject* dict) {
  if (args.positional.size() > 1) raise("{} expected at most 1 argument, got {}", function, args.positional.size());
  if (!args.positional.empty()) {
    const Value& source = args.positional[0];
    if (source.is(Kind::kDict)) {
      for (const auto& [key, value] : source.dict().entries) dict->set(rt, key, value);
    } else {
      Value pair;
      for (Iteration it(rt, source); it.next(&pair);) {
        std::vector<Value> both = to_vector(rt, pair);
        if (both.size() != 2) raise("dictionary update sequence element has length {}; 2 is required", both.size());
        if (!both[0].is_string()) rt.step(static_cast<int64_t>(dict->entries.size()));
        dict->set(rt, both[0], both[1]);
      }
    }
  }
  for (const auto& [name, value] : args.named) dict->set(rt, rt.string(name), value);
}

Value global_dict(Runtime& rt, const Value&, const Args& args) {
  auto* dict = rt.make<DictObject>();
  fill_dict(rt, "dict", args, dict);
  return Value::object(Kind::kDict, dict);
}

Value global_namespace(Runtime& rt, const Value&, const Args& args) {
  auto* ns = rt.make<NamespaceObject>();
  fill_dict(rt, "namespace", args, &ns->attributes);
  return Value::object(Kind::kNamespace, ns);
}

Value global_cycler(Runtime& rt, const Value&, const Args& args) {
  if (!args.named.empty()) raise("cycler() got an unexpected keyword argument '{}'", args.named[0].first);
  if (args.positional.empty()) raise("at least one item has to be provided");
  auto* cycler = rt.make<CyclerObject>();
  cycler->items = args.positional;
  return Value::object(Kind::kCycler, cycler);
}

Value global_joiner(Runtime& rt, const Value&, const Args& args) {
  Bound bound("joiner", args, {"sep"});
  auto* joiner = rt.make<JoinerObject>();
  joiner->separator = bound.has(0) ? bound[0] : rt.string(", ");
  return Value::object(Kind::kJoiner, joiner);
}

Value global_lipsum(Runtime&, const Value&, const Args&) {
  fail(ErrorCode::kUnsupported, "lipsum() is not supported: a prompt must not be random");
}

Value global_raise_exception(Runtime& rt, const Value&, const Args& args) {
  Bound bound("raise_exception", args, {"message"}, 1);
  raise("{}", to_str(rt, bound[0]).bytes());
}

// `time` with the day of the week and of the year filled in.
std::tm complete(std::tm time) {
  std::tm utc = time;
  if (timegm(&utc) != -1 || time.tm_year == 69) {
    time.tm_wday = utc.tm_wday;
    time.tm_yday = utc.tm_yday;
  }
  return time;
}

Value global_strftime_now(Runtime& rt, const Value&, const Args& args) {
  Bound bound("strftime_now", args, {"format"}, 1);
  const Text& format = need_text(bound[0], "strftime_now's format");
  std::tm now{};
  if (rt.options().now.has_value()) {
    now = complete(*rt.options().now);
  } else {
    std::time_t seconds = std::time(nullptr);
    localtime_r(&seconds, &now);
  }
  std::string text = format_time(format.bytes(), now);
  rt.charge_output(text.size());
  return rt.string(Text(std::move(text), format.empty() ? 0 : format.marks_at(0)));
}

constexpr NamedFunction kGlobals[] = {
    {"range", global_range},
    {"dict", global_dict},
    {"namespace", global_namespace},
    {"cycler", global_cycler},
    {"joiner", global_joiner},
    {"lipsum", global_lipsum},
    {"raise_exception", global_raise_exception},
    {"strftime_now", global_strftime_now},
};

}  // namespace

Value make_global(Runtime& rt, std::string_view name) {
  for (const NamedFunction& entry : kGlobals) {
    if (name == entry.name) return rt.function(entry.name, entry.function);
  }
  return Value();
}

}  // namespace tessera::jinja
