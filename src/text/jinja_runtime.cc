#include "text/jinja_runtime.h"

#include <algorithm>
#include <limits>

#include "text/jinja_unicode.h"
#include "text/utf8.h"

namespace tessera::jinja {

namespace {

constexpr size_t kFewEntries = 8;   // below this a scan beats an index
constexpr int kMaxJsonDepth = 400;  // of the variables; printing them takes as many levels

}  // namespace

Runtime::Runtime(const RenderOptions& options)
    : options_(options), steps_left_(options.max_steps), memory_left_(options.max_memory_bytes) {}

void Runtime::charge_memory(Int bytes) {
  if (bytes < 0 || bytes > memory_left_) {
    raise("the template needs more than the {} MiB of memory that a render may take", options_.max_memory_bytes >> 20);
  }
  memory_left_ -= bytes;
}

void Runtime::charge_output(size_t size) const {
  if (size > static_cast<size_t>(options_.max_output_bytes)) {
    raise("the template makes a text of more than {} bytes", options_.max_output_bytes);
  }
}

void Runtime::out_of_steps() const {
  raise("the template did not end within {} steps; is there a loop that grows with its input?", options_.max_steps);
}

void Runtime::too_deep() {
  --depth_;
  raise("the template nests more than {} levels deep", options_.max_depth);
}

Value Runtime::string(Text text, bool markup) {
  charge_output(text.size());
  charge_memory(static_cast<Int>(text.size()));
  step(static_cast<int64_t>(text.size() / 64));
  return Value::object(Kind::kString, make<StringObject>(std::move(text), markup));
}

Value Runtime::sequence(Kind kind, std::vector<Value> items) {
  charge_memory(static_cast<Int>(items.size()) * static_cast<Int>(sizeof(Value)));
  step(static_cast<int64_t>(items.size() / 4));
  auto* object = make<ListObject>();
  object->items = std::move(items);
  return Value::object(kind, object);
}

Value Runtime::from_json(const OrderedJson& json, uint8_t marks, std::string_view key) {
  Depth depth(*this);
  if (depth_ > kMaxJsonDepth) raise("the variables nest more than {} levels deep", kMaxJsonDepth);
  step();
  switch (json.type()) {
    case OrderedJson::value_t::boolean:
      return Value::boolean(json.get<bool>());
    case OrderedJson::value_t::number_integer:
      return Value::integer(json.get<int64_t>());
    case OrderedJson::value_t::number_unsigned:
      return Value::integer(static_cast<Int>(json.get<uint64_t>()));
    case OrderedJson::value_t::number_float:
      return Value::real(json.get<double>());
    case OrderedJson::value_t::string: {
      const auto& bytes = json.get_ref<const std::string&>();
      if (!utf8_is_valid(bytes))
        raise("the variables hold text that is not valid UTF-8{}{}", key.empty() ? "" : ": ", key);
      for (const auto& [name, value] : options_.trusted_values) {
        if (name == key && value == bytes) marks = 0;
      }
      return string(Text(bytes, marks));
    }
    case OrderedJson::value_t::array: {
      std::vector<Value> items;
      items.reserve(json.size());
      for (const OrderedJson& item : json) items.push_back(from_json(item, marks, key));
      return list(std::move(items));
    }
    case OrderedJson::value_t::object: {
      auto* dict = make<DictObject>();
      for (const auto& item : json.items()) {
        if (!utf8_is_valid(item.key())) raise("the variables hold a key that is not valid UTF-8");
        dict->set(*this, string(Text(item.key(), marks)), from_json(item.value(), marks, item.key()));
      }
      return Value::object(Kind::kDict, dict);
    }
    default:
      return Value::none();
  }
}

void Builder::check(size_t more) {
  rt_.charge_output(text_.size() + more);
  rt_.charge_memory(static_cast<Int>(more));
  rt_.step(static_cast<int64_t>(more / 64));
}

void Builder::append_repeated(const Text& text, Int times) {
  if (times <= 0 || text.empty()) return;
  Int total = static_cast<Int>(text.size()) * std::min<Int>(times, std::numeric_limits<int64_t>::max());
  rt_.charge_output(static_cast<size_t>(std::min<Int>(total, std::numeric_limits<int64_t>::max())));
  for (Int i = 0; i < times; ++i) {
    rt_.step();
    append(text);
  }
}

Iteration::Iteration(Runtime& rt, const Value& value) : rt_(rt), value_(value) {
  if (!is_iterable(value)) raise("'{}' object is not iterable", type_name(value));
}

bool Iteration::next(Value* item) {
  rt_.step();
  switch (value_.kind()) {
    case Kind::kString: {
      const Text& text = value_.text();
      if (at_ >= text.size()) return false;
      uint32_t c = 0;
      size_t size = unicode::decode(text.bytes(), at_, &c);
      *item = rt_.string(text.slice(at_, at_ + size));  // of Markup too: plain
      at_ += size;
      return true;
    }
    case Kind::kList:
    case Kind::kTuple:
      if (at_ >= value_.items().size()) return false;
      *item = value_.items()[at_++];
      return true;
    case Kind::kDict:
      if (at_ >= value_.dict().entries.size()) return false;
      *item = value_.dict().entries[at_++].first;
      return true;
    case Kind::kDictView: {
      auto& view = value_.as<DictViewObject>();
      const auto& entries = view.dict.dict().entries;
      if (at_ >= entries.size()) return false;
      const auto& [key, value] = entries[at_++];
      *item = view.what == DictViewObject::What::kKeys     ? key
              : view.what == DictViewObject::What::kValues ? value
                                                           : rt_.tuple({key, value});
      return true;
    }
    case Kind::kRange: {
      auto& range = value_.as<RangeObject>();
      if (count_ >= range.length()) return false;
      *item = Value::integer(range.start + count_++ * range.step);
      return true;
    }
    case Kind::kIterator: {
      Runtime::Depth depth(rt_);
      return value_.as<IteratorObject>().next(rt_, item);
    }
    case Kind::kLoop:
      return rt_.next_of_loop(value_, item);
    default:
      return false;  // undefined: nothing
  }
}

bool is_iterable(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
    case Kind::kString:
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kDict:
    case Kind::kDictView:
    case Kind::kRange:
    case Kind::kIterator:
    case Kind::kLoop:
      return true;
    default:
      return false;
  }
}

std::vector<Value> to_vector(Runtime& rt, const Value& iterable) {
  if (iterable.is_sequence()) {
    rt.step(static_cast<int64_t>(iterable.items().size() / 4));
    return iterable.items();
  }
  std::vector<Value> items;
  Value item;
  for (Iteration it(rt, iterable); it.next(&item);) {
    rt.charge_memory(sizeof(Value));
    items.push_back(item);
  }
  return items;
}

Bound::Bound(const char* function, const Args& args, std::initializer_list<const char*> names, size_t required,
             Style style) {
  TS_CHECK(names.size() <= kMax);
  if (args.positional.size() > names.size()) {
    raise("{}() takes at most {} argument(s), {} were given", function, names.size(), args.positional.size());
  }
  std::copy(args.positional.begin(), args.positional.end(), values_);
  for (const auto& [name, value] : args.named) {
    auto at = std::find_if(names.begin(), names.end(),
                           [wanted = std::string_view(name)](const char* n) { return n == wanted; });
    if (at == names.end() || style == kPositionalOnly) {
      raise("{}() got an unexpected keyword argument '{}'", function, name);
    }
    size_t i = static_cast<size_t>(at - names.begin());
    if (has(i)) raise("{}() got multiple values for argument '{}'", function, name);
    values_[i] = value;
  }
  for (size_t i = 0; i < required; ++i) {
    if (!has(i)) raise("{}() missing required argument '{}'", function, names.begin()[i]);
  }
}

std::string type_name(const Value& value) {
  switch (value.kind()) {
    case Kind::kMissing:
    case Kind::kUndefined:
      return "Undefined";
    case Kind::kNone:
      return "NoneType";
    case Kind::kBool:
      return "bool";
    case Kind::kInt:
      return "int";
    case Kind::kFloat:
      return "float";
    case Kind::kString:
      return value.is_markup() ? "Markup" : "str";
    case Kind::kList:
      return "list";
    case Kind::kTuple:
      return "tuple";
    case Kind::kDict:
      return "dict";
    case Kind::kDictView:
      switch (value.as<DictViewObject>().what) {
        case DictViewObject::What::kKeys:
          return "dict_keys";
        case DictViewObject::What::kValues:
          return "dict_values";
        default:
          return "dict_items";
      }
    case Kind::kRange:
      return "range";
    case Kind::kIterator:
      return "generator";
    case Kind::kNamespace:
      return "Namespace";
    case Kind::kFunction:
      return "builtin_function_or_method";
    case Kind::kMacro:
      return "Macro";
    case Kind::kLoop:
      return "LoopContext";
    case Kind::kCycler:
      return "Cycler";
    case Kind::kJoiner:
      return "Joiner";
  }
  return "object";
}

void reject_undefined(const Value& value) {
  if (value.is_undefined()) raise("{}", value.as<UndefinedObject>().message);
}

const Text& need_text(const Value& value, const char* what) {
  reject_undefined(value);
  if (!value.is_string()) raise("{} must be str, not {}", what, type_name(value));
  return value.text();
}

Int need_integer(const Value& value, const char* what) {
  reject_undefined(value);
  if (!value.is_integer()) raise("{} must be an integer, not {}", what, type_name(value));
  return value.as_int();
}

int64_t need_size(const Value& value, const char* what) {
  Int wide = need_integer(value, what);
  return static_cast<int64_t>(
      std::clamp<Int>(wide, std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max()));
}

const Value* DictObject::find(std::string_view key) const {
  if (entries.size() <= kFewEntries) {
    for (const auto& [k, value] : entries) {
      if (k.is_string() && k.bytes() == key) return &value;
    }
    return nullptr;
  }
  index_strings();
  auto at = strings_.find(key);
  return at == strings_.end() ? nullptr : &entries[at->second].second;
}

void DictObject::index_strings() const {
  for (; indexed_ < entries.size(); ++indexed_) {
    const Value& key = entries[indexed_].first;
    if (key.is_string()) strings_.emplace(key.bytes(), indexed_);
  }
}

Int RangeObject::length() const {
  if (step > 0) return start < stop ? (stop - start - 1) / step + 1 : 0;
  return start > stop ? (start - stop - 1) / -step + 1 : 0;
}

}  // namespace tessera::jinja
