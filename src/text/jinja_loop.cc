// The `loop` variable, and loops that call themselves.
#include "text/jinja_interpreter.h"
#include "text/jinja_operators.h"
#include "text/jinja_print.h"

namespace tessera::jinja {

namespace {

bool take_item(LoopObject* loop, Value* item) {
  if (!loop->uses_rest) return loop->items.next(item);
  if (loop->rest_at >= loop->rest.size()) return false;
  *item = loop->rest[loop->rest_at++];
  return true;
}

Value loop_cycle(Runtime&, const Value& self, const Args& args) {
  if (!args.named.empty()) raise("cycle() got an unexpected keyword argument '{}'", args.named[0].first);
  if (args.positional.empty()) raise("no items for cycling given");
  auto count = static_cast<Int>(args.positional.size());
  return args.positional[static_cast<size_t>(self.as<LoopObject>().index0 % count)];
}

Value loop_changed(Runtime& rt, const Value& self, const Args& args) {
  if (!args.named.empty()) raise("changed() got an unexpected keyword argument '{}'", args.named[0].first);
  auto& loop = self.as<LoopObject>();
  Value now = rt.tuple(args.positional);
  if (!loop.last_changed.is_missing() && equal(rt, loop.last_changed, now)) return Value::boolean(false);
  loop.last_changed = now;
  return Value::boolean(true);
}

}  // namespace

bool Interpreter::advance(LoopObject* loop) {
  Value item;
  if (!loop->after.is_missing()) {
    item = std::exchange(loop->after, Value());
  } else if (!take_item(loop, &item)) {
    return false;
  }
  ++loop->index0;
  loop->before = std::exchange(loop->now, item);
  return true;
}

Value Interpreter::peek(LoopObject* loop) {
  Value item;
  if (loop->after.is_missing() && take_item(loop, &item)) loop->after = item;
  return loop->after;
}

Int Interpreter::loop_length(LoopObject* loop) {
  if (loop->known_length >= 0) return loop->known_length;
  if (!loop->iterable.is(Kind::kIterator)) return loop->known_length = length(*this, loop->iterable).as_int();
  Value item;
  std::vector<Value> rest;
  while (take_item(loop, &item)) {
    charge_memory(sizeof(Value));
    rest.push_back(item);
  }
  loop->rest = std::move(rest);
  loop->rest_at = 0;
  loop->uses_rest = true;
  auto left = static_cast<Int>(loop->rest.size());
  return loop->known_length = left + loop->index0 + 1 + (loop->after.is_missing() ? 0 : 1);
}

Value Interpreter::loop_attribute(const Value& value, std::string_view name) {
  auto* loop = &value.as<LoopObject>();
  if (name == "index0") return Value::integer(loop->index0);
  if (name == "index") return Value::integer(loop->index0 + 1);
  if (name == "first") return Value::boolean(loop->index0 == 0);
  if (name == "last") return Value::boolean(peek(loop).is_missing());
  if (name == "length") return Value::integer(loop_length(loop));
  if (name == "revindex0") return Value::integer(loop_length(loop) - loop->index0 - 1);
  if (name == "revindex") return Value::integer(loop_length(loop) - loop->index0);
  if (name == "depth0") return Value::integer(loop->depth0);
  if (name == "depth") return Value::integer(loop->depth0 + 1);
  if (name == "previtem") return loop->before.is_missing() ? undefined("there is no previous item") : loop->before;
  if (name == "nextitem") {
    Value item = peek(loop);
    return item.is_missing() ? undefined("there is no next item") : item;
  }
  if (name == "cycle") return function("cycle", loop_cycle, value);
  if (name == "changed") return function("changed", loop_changed, value);
  return Value();
}

// Iterating over `loop` itself takes its remaining items.
bool Interpreter::next_of_loop(const Value& value, Value* item) {
  auto* loop = &value.as<LoopObject>();
  if (!advance(loop)) return false;
  *item = tuple({loop->now, value});
  return true;
}

Value Interpreter::call_loop(const Value& value, const Args& args) {
  Bound bound("loop", args, {"iterable"}, 1);
  auto& loop = value.as<LoopObject>();
  if (loop.statement == nullptr) raise("The loop must have the 'recursive' marker to be called recursively.");
  auto* frame = make<Activation>(loop.outer, loop.statement->slots);
  Builder out(*this);
  execute_for(frame, *loop.statement, bound[0], loop.depth0 + 1, &out);
  return out.value();
}

}  // namespace tessera::jinja
