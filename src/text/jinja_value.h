// The values of a template while it renders: Python's, as far as a template can tell. A Value is a small handle; what
// it points to lives until the render ends (Runtime) or as long as the parsed template (constants), so values are
// copied freely and cycles are harmless. Integers have 128 bits and overflow is an error. Not thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja_text.h"

namespace tessera::jinja {

class Runtime;
class Value;
using Int = __int128;

enum class Kind : uint8_t {
  kMissing,  // a variable that has no value yet, an argument that was not given; never seen by a template
  kUndefined,
  kNone,
  kBool,
  kInt,
  kFloat,
  kString,
  kList,
  kTuple,
  kDict,
  kDictView,
  kRange,
  kIterator,
  kNamespace,
  kFunction,
  kMacro,
  kLoop,
  kCycler,
  kJoiner,
};

struct Object {
  virtual ~Object() = default;
};

struct StringObject : Object {
  StringObject(Text t, bool is_markup) : text(std::move(t)), markup(is_markup) {}
  Text text;
  bool markup;  // MarkupSafe's Markup: `safe` and `escape` make it; it escapes what is added to it
};

struct ListObject;
struct DictObject;

class Value {
 public:
  Value() = default;
  static Value none() { return Value(Kind::kNone); }
  static Value boolean(bool b) {
    Value v(Kind::kBool);
    v.int_ = b;
    return v;
  }
  static Value integer(Int i) {
    Value v(Kind::kInt);
    v.int_ = i;
    return v;
  }
  static Value real(double f) {
    Value v(Kind::kFloat);
    v.float_ = f;
    return v;
  }
  static Value object(Kind kind, Object* o) {
    Value v(kind);
    v.object_ = o;
    return v;
  }

  Kind kind() const { return kind_; }
  bool is(Kind kind) const { return kind_ == kind; }
  bool is_missing() const { return kind_ == Kind::kMissing; }
  bool is_undefined() const { return kind_ == Kind::kUndefined; }
  bool is_none() const { return kind_ == Kind::kNone; }
  bool is_string() const { return kind_ == Kind::kString; }
  bool is_integer() const { return kind_ == Kind::kInt || kind_ == Kind::kBool; }  // Python's: bool is an int
  bool is_number() const { return is_integer() || kind_ == Kind::kFloat; }
  bool is_sequence() const { return kind_ == Kind::kList || kind_ == Kind::kTuple; }

  // Each REQUIRES the kind that it names.
  bool as_bool() const { return int_ != 0; }
  Int as_int() const { return int_; }  // kInt, kBool
  double as_float() const { return kind_ == Kind::kFloat ? float_ : static_cast<double>(int_); }
  const Text& text() const { return static_cast<const StringObject*>(object_)->text; }
  std::string_view bytes() const { return text().bytes(); }
  bool is_markup() const { return is_string() && static_cast<const StringObject*>(object_)->markup; }
  const std::vector<Value>& items() const;  // kList, kTuple
  const DictObject& dict() const;
  template <class T>
  T& as() const {
    return *static_cast<T*>(object_);
  }
  const Object* identity() const { return object_; }  // any kind above kFloat

 private:
  explicit Value(Kind kind) : kind_(kind) {}

  Kind kind_ = Kind::kMissing;
  union {
    Int int_ = 0;
    double float_;
    Object* object_;
  };
};

struct UndefinedObject : Object {
  explicit UndefinedObject(std::string m) : message(std::move(m)) {}
  std::string message;  // what an operation on it reports
};

struct ListObject : Object {  // also tuples
  std::vector<Value> items;
  bool group = false;  // a pair of `groupby`: has .grouper and .list
};

// Insertion ordered. Keys are hashable values; 1, 1.0 and true are one key.
struct DictObject : Object {
  std::vector<std::pair<Value, Value>> entries;
  const Value* find(Runtime& rt, const Value& key) const;  // fails on a key that is not hashable
  const Value* find(std::string_view key) const;
  void set(Runtime& rt, const Value& key, const Value& value);

 private:
  void index_strings() const;
  mutable std::map<std::string_view, size_t> strings_;  // built once there are more than a few entries
  mutable size_t indexed_ = 0;
  int64_t other_keys_ = 0;  // keys that are no strings, found by a scan
};

struct DictViewObject : Object {
  enum class What : uint8_t { kKeys, kValues, kItems };
  DictViewObject(const Value& d, What w) : dict(d), what(w) {}
  Value dict;
  What what;
};

struct RangeObject : Object {
  RangeObject(Int b, Int e, Int s) : start(b), stop(e), step(s) {}
  Int length() const;
  Int start, stop, step;
};

struct NamespaceObject : Object {
  DictObject attributes;
};

struct CyclerObject : Object {
  std::vector<Value> items;
  size_t at = 0;
};

struct JoinerObject : Object {
  Value separator;
  bool used = false;
};

// A generator: gives each item once.
struct IteratorObject : Object {
  virtual bool next(Runtime& rt, Value* item) = 0;
};

struct Args {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

using NativeFunction = Value (*)(Runtime& rt, const Value& self, const Args& args);

struct FunctionObject : Object {  // a global, or a method with the value it belongs to
  FunctionObject(const char* n, NativeFunction f, const Value& s) : name(n), function(f), self(s) {}
  const char* name;
  NativeFunction function;
  Value self;
};

inline const std::vector<Value>& Value::items() const {
  return static_cast<const ListObject*>(object_)->items;
}
inline const DictObject& Value::dict() const {
  return *static_cast<const DictObject*>(object_);
}

}  // namespace tessera::jinja
