// What one render shares: its budgets, the values it made, and the protocols of Python that filters, methods and
// operators are written in. Errors are tessera::Error(kInvalidArgument); the interpreter adds template name and line.
#pragma once

#include <initializer_list>
#include <memory>

#include "core/error.h"
#include "text/jinja.h"
#include "text/jinja_value.h"

namespace tessera::jinja {

class Runtime {
 public:
  explicit Runtime(const RenderOptions& options);
  virtual ~Runtime() = default;
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  const RenderOptions& options() const { return options_; }
  void step(int64_t n = 1) {
    if ((steps_left_ -= n) < 0) out_of_steps();
  }
  // Called before the memory is taken, so that no single operation can take more than the limit.
  void charge_memory(Int bytes);
  void charge_output(size_t size) const;  // `size`: of one text

  template <class T, class... A>
  T* make(A&&... args) {
    charge_memory(static_cast<Int>(sizeof(T)) + 32);
    auto owner = std::make_unique<T>(std::forward<A>(args)...);
    T* object = owner.get();
    objects_.push_back(std::move(owner));
    return object;
  }
  Value string(Text text, bool markup = false);
  Value string(std::string_view bytes) { return string(Text(std::string(bytes))); }
  Value list(std::vector<Value> items) { return sequence(Kind::kList, std::move(items)); }
  Value tuple(std::vector<Value> items) { return sequence(Kind::kTuple, std::move(items)); }
  Value undefined(std::string message) {
    return Value::object(Kind::kUndefined, make<UndefinedObject>(std::move(message)));
  }
  Value function(const char* name, NativeFunction f, const Value& self = Value::none()) {
    return Value::object(Kind::kFunction, make<FunctionObject>(name, f, self));
  }
  Value iterator(IteratorObject* source) { return Value::object(Kind::kIterator, source); }
  // `key`: under which the value was found, for RenderOptions::trusted_values.
  Value from_json(const OrderedJson& json, uint8_t marks, std::string_view key = {});

  virtual Value call(const Value& callee, const Args& args) = 0;
  virtual Value loop_attribute(const Value& loop, std::string_view name) = 0;  // kMissing: no such attribute
  virtual bool next_of_loop(const Value& loop, Value* item) = 0;

  // Scope guard of one level of recursion: expressions, calls, nested values.
  class Depth {
   public:
    explicit Depth(Runtime& rt) : rt_(rt) {
      if (++rt_.depth_ > rt_.options_.max_depth) rt_.too_deep();
    }
    ~Depth() { --rt_.depth_; }
    Depth(const Depth&) = delete;
    Depth& operator=(const Depth&) = delete;

   private:
    Runtime& rt_;
  };

 private:
  Value sequence(Kind kind, std::vector<Value> items);
  [[noreturn]] void out_of_steps() const;
  [[noreturn]] void too_deep();

  const RenderOptions& options_;
  int64_t steps_left_;
  Int memory_left_;
  int depth_ = 0;
  std::vector<std::unique_ptr<Object>> objects_;
};

// Text under construction, within the limits.
class Builder {
 public:
  explicit Builder(Runtime& rt) : rt_(rt) {}
  void append(std::string_view bytes, uint8_t marks = 0) {
    check(bytes.size());
    text_.append(bytes, marks);
  }
  void append(const Text& text) { append(text, 0, text.size()); }
  void append(const Text& text, size_t begin, size_t end) {
    check(end > begin ? end - begin : 0);
    text_.append(text, begin, end);
  }
  void append_repeated(const Text& text, Int times);
  const Text& text() const { return text_; }
  Text take() { return std::move(text_); }
  Value value(bool markup = false) { return rt_.string(std::move(text_), markup); }

 private:
  void check(size_t more);

  Runtime& rt_;
  Text text_;
};

// Items of anything that Python can iterate over. Fails at construction when the value is not iterable.
class Iteration {
 public:
  Iteration(Runtime& rt, const Value& value);
  bool next(Value* item);

 private:
  Runtime& rt_;
  Value value_;
  size_t at_ = 0;
  Int count_ = 0;
};

bool is_iterable(const Value& value);
std::vector<Value> to_vector(Runtime& rt, const Value& iterable);

// Positional and named arguments in the order of `names`. Fails like Python on unknown, doubled, missing or too many.
class Bound {
 public:
  enum Style { kAny, kPositionalOnly };
  Bound(const char* function, const Args& args, std::initializer_list<const char*> names, size_t required = 0,
        Style style = kAny);
  bool has(size_t i) const { return !values_[i].is_missing(); }
  const Value& operator[](size_t i) const { return values_[i]; }
  Value get(size_t i, const Value& otherwise) const { return has(i) ? values_[i] : otherwise; }

 private:
  static constexpr size_t kMax = 6;
  Value values_[kMax];
};

template <class... A>
[[noreturn]] void raise(fmt::format_string<A...> format, A&&... args) {
  fail(ErrorCode::kInvalidArgument, format, std::forward<A>(args)...);
}

std::string type_name(const Value& value);                    // Python's, for messages
void reject_undefined(const Value& value);                    // fails with the undefined value's own message
const Text& need_text(const Value& value, const char* what);  // a string
Int need_integer(const Value& value, const char* what);       // an int or bool
int64_t need_size(const Value& value, const char* what);      // the same, cut to the int64 range

}  // namespace tessera::jinja
