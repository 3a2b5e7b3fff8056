#include "text/jinja_interpreter.h"

#include <algorithm>

#include "text/jinja_builtins.h"
#include "text/jinja_operators.h"
#include "text/jinja_print.h"

namespace tessera::jinja {

// The items of a loop that its `if` lets through.
struct FilteredItems : IteratorObject {
  FilteredItems(Interpreter& i, const Value& iterable, const Stmt& s, Activation* f)
      : interpreter(i), items(i, iterable), statement(s), frame(f) {}

  bool next(Runtime& rt, Value* item) override {
    if (!std::exchange(entered, true)) interpreter.enter_scope(frame, statement.condition_loads);
    while (items.next(item)) {
      interpreter.assign(frame, *statement.condition_target, *item);
      if (truthy(rt, interpreter.evaluate(frame, *statement.condition))) return true;
    }
    return false;
  }

  Interpreter& interpreter;
  Iteration items;
  const Stmt& statement;
  Activation* frame;
  bool entered = false;
};

Text Interpreter::run(const std::vector<Variable>& variables) {
  try {
    for (const Variable& v : variables)
      context_[std::string(v.name)] = from_json(*v.value, v.own ? 0 : kFromInput, v.name);
    auto* frame = make<Activation>(nullptr, program_.slots);
    Builder out(*this);
    enter_scope(frame, program_.loads);
    execute(frame, program_.body, &out);
    return out.take();
  } catch (const Error& e) {
    fail(e.code(), "{}:{}: {}", program_.name, line_, e.what());
  }
}

void Interpreter::enter_scope(Activation* frame, const std::vector<ScopeLoad>& loads) {
  for (const ScopeLoad& load : loads) {
    Value& slot = frame->values[static_cast<size_t>(load.slot)];
    switch (load.action) {
      case ScopeLoad::Action::kUndefined:
        slot = Value();
        break;
      case ScopeLoad::Action::kResolve:
        slot = resolve(load.name);
        break;
      case ScopeLoad::Action::kAlias:
        slot = variable(frame, load.outer);
        break;
    }
  }
}

Value Interpreter::resolve(const std::string& name) {
  step();
  auto [at, fresh] = context_.try_emplace(name);
  if (fresh) at->second = make_global(*this, name);
  return at->second;
}

Value& Interpreter::variable(Activation* frame, VariableRef ref) {
  for (int i = 0; i < ref.hops; ++i) frame = frame->outer;
  return frame->values[static_cast<size_t>(ref.slot)];
}

Interpreter::Flow Interpreter::execute(Activation* frame, const Block& block, Builder* out) {
  for (const auto& stmt : block) {
    if (Flow flow = execute(frame, *stmt, out); flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::execute(Activation* frame, const Stmt& stmt, Builder* out) {
  Depth depth(*this);
  step();
  line_ = stmt.line;
  switch (stmt.kind) {
    case StmtKind::kOutput:
      print(frame, stmt, out);
      return Flow::kNext;
    case StmtKind::kIf:
      return execute_if(frame, stmt, out);
    case StmtKind::kFor:
      if (stmt.recursive) {
        Activation* inner = make<Activation>(frame, stmt.slots);
        return execute_for(inner, stmt, evaluate(frame, *stmt.value), 0, out);
      }
      return execute_for(frame, stmt, evaluate(frame, *stmt.value), 0, out);
    case StmtKind::kSet:
      assign(frame, *stmt.target, evaluate(frame, *stmt.value));
      return Flow::kNext;
    case StmtKind::kSetBlock:
      return execute_set_block(frame, stmt);
    case StmtKind::kMacro:
      variable(frame, stmt.variable) = Value::object(Kind::kMacro, make<MacroObject>(&stmt, frame));
      return Flow::kNext;
    case StmtKind::kCallBlock:
      execute_call_block(frame, stmt, out);
      return Flow::kNext;
    case StmtKind::kGeneration:
      execute_generation(frame, stmt, out);
      return Flow::kNext;
    case StmtKind::kFilterBlock:
      return execute_filter_block(frame, stmt, out);
    case StmtKind::kWith:
      return execute_with(frame, stmt, out);
    case StmtKind::kBreak:
      return Flow::kBreak;
    case StmtKind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

void Interpreter::print(Activation* frame, const Stmt& stmt, Builder* out) {
  for (const ExprPtr& expr : stmt.exprs) {
    Value value = evaluate(frame, *expr);
    append_str(*this, value, out);
  }
}

Interpreter::Flow Interpreter::execute_if(Activation* frame, const Stmt& stmt, Builder* out) {
  for (const Branch& branch : stmt.branches) {
    if (branch.test == nullptr || truthy(*this, evaluate(frame, *branch.test))) return execute(frame, branch.body, out);
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::execute_for(Activation* frame, const Stmt& stmt, const Value& iterable, int depth0,
                                           Builder* out) {
  Value source = iterable;
  if (stmt.condition != nullptr) source = iterator(make<FilteredItems>(*this, iterable, stmt, frame));
  auto* loop = make<LoopObject>(*this, source, stmt.recursive ? &stmt : nullptr, frame->outer, depth0);
  bool completed = false;  // jinja2: `else` runs unless an iteration reached its end
  while (advance(loop)) {
    if (stmt.loop.slot >= 0) variable(frame, stmt.loop) = Value::object(Kind::kLoop, loop);
    assign(frame, *stmt.target, loop->now);
    enter_scope(frame, stmt.loads);
    Flow flow = execute(frame, stmt.body, out);
    if (flow == Flow::kBreak) break;
    if (flow == Flow::kNext) completed = true;
  }
  if (completed || stmt.otherwise.empty()) return Flow::kNext;
  enter_scope(frame, stmt.otherwise_loads);
  return execute(frame, stmt.otherwise, out);
}

Interpreter::Flow Interpreter::execute_set_block(Activation* frame, const Stmt& stmt) {
  enter_scope(frame, stmt.loads);
  Builder body(*this);
  if (Flow flow = execute(frame, stmt.body, &body); flow != Flow::kNext) return flow;
  Value text = body.value();
  assign(frame, *stmt.target, stmt.value != nullptr ? evaluate_filter(frame, *stmt.value, &text) : text);
  return Flow::kNext;
}

Interpreter::Flow Interpreter::execute_filter_block(Activation* frame, const Stmt& stmt, Builder* out) {
  enter_scope(frame, stmt.loads);
  Builder body(*this);
  if (Flow flow = execute(frame, stmt.body, &body); flow != Flow::kNext) return flow;
  Value text = body.value();
  out->append(need_text(evaluate_filter(frame, *stmt.value, &text), "the result of a filter block"));
  return Flow::kNext;
}

Interpreter::Flow Interpreter::execute_with(Activation* frame, const Stmt& stmt, Builder* out) {
  enter_scope(frame, stmt.loads);
  for (size_t i = 0; i + 1 < stmt.exprs.size(); i += 2) {
    assign(frame, *stmt.exprs[i], evaluate(frame, *stmt.exprs[i + 1]));
  }
  return execute(frame, stmt.body, out);
}

void Interpreter::execute_call_block(Activation* frame, const Stmt& stmt, Builder* out) {
  Value caller = Value::object(Kind::kMacro, make<MacroObject>(&stmt, frame));
  out->append(need_text(evaluate_call(frame, *stmt.value, &caller), "the result of a call block"));
}

void Interpreter::execute_generation(Activation* frame, const Stmt& stmt, Builder* out) {
  Value body = call_macro(Value::object(Kind::kMacro, make<MacroObject>(&stmt, frame)), {});
  Text text = body.text();
  text.add_marks(kGenerated);
  out->append(text);
}

void Interpreter::assign(Activation* frame, const Expr& target, const Value& value) {
  step();
  if (target.kind == ExprKind::kName) {
    variable(frame, target.variable) = value;
    return;
  }
  if (target.kind == ExprKind::kNamespaceRef) {
    Value& ns = variable(frame, target.variable);
    if (!ns.is(Kind::kNamespace)) raise("cannot assign attribute on non-namespace object");
    ns.as<NamespaceObject>().attributes.set(*this, target.constant, value);
    return;
  }
  if (!is_iterable(value)) raise("cannot unpack non-iterable {} object", type_name(value));
  Value item;
  std::vector<Value> items;
  for (Iteration it(*this, value); items.size() <= target.children.size() && it.next(&item);) items.push_back(item);
  if (items.size() < target.children.size()) {
    raise("not enough values to unpack (expected {}, got {})", target.children.size(), items.size());
  }
  if (items.size() > target.children.size()) raise("too many values to unpack (expected {})", target.children.size());
  for (size_t i = 0; i < items.size(); ++i) assign(frame, *target.children[i], items[i]);
}

Value Interpreter::call(const Value& callee, const Args& args) {
  Depth depth(*this);
  step();
  reject_undefined(callee);
  switch (callee.kind()) {
    case Kind::kFunction: {
      auto& function = callee.as<FunctionObject>();
      return function.function(*this, function.self, args);
    }
    case Kind::kMacro:
      return call_macro(callee, args);
    case Kind::kLoop:
      return call_loop(callee, args);
    case Kind::kJoiner: {
      Bound bound("joiner", args, {});
      auto& joiner = callee.as<JoinerObject>();
      return std::exchange(joiner.used, true) ? joiner.separator : string("");
    }
    default:
      raise("'{}' object is not callable", type_name(callee));
  }
}

std::string describe_macro(const Value& macro) {
  const Stmt& definition = *macro.as<MacroObject>().definition;
  return definition.kind == StmtKind::kMacro ? "<Macro '" + definition.name + "'>" : "<Macro anonymous>";
}

Value macro_attribute(Runtime& rt, const Value& macro, std::string_view name) {
  const Stmt& definition = *macro.as<MacroObject>().definition;
  bool named = definition.kind == StmtKind::kMacro;
  if (name == "name") return named ? rt.string(definition.name) : Value::none();
  if (name == "arguments") {
    std::vector<Value> names;
    for (const Parameter& parameter : definition.parameters) names.push_back(rt.string(parameter.name));
    return rt.tuple(std::move(names));
  }
  if (name == "catch_kwargs") return Value::boolean(definition.kwargs.slot >= 0);
  if (name == "catch_varargs") return Value::boolean(definition.varargs.slot >= 0);
  if (name == "caller") return Value::boolean(definition.caller.slot >= 0);
  return Value();
}

// Positional arguments first, then by name; what is left goes to `varargs` and `kwargs` if the body asks for them.
Value Interpreter::call_macro(const Value& macro, const Args& args) {
  Depth depth(*this);
  const MacroObject& object = macro.as<MacroObject>();
  const Stmt& definition = *object.definition;
  auto* frame = make<Activation>(object.outer, definition.slots);
  auto named = args.named;
  const auto& parameters = definition.parameters;
  bool caller_given = false;
  for (size_t i = 0; i < parameters.size(); ++i) {
    Value& slot = variable(frame, parameters[i].variable);
    if (i < args.positional.size()) {
      slot = args.positional[i];
    } else {
      auto at = std::find_if(named.begin(), named.end(), [&](const auto& n) { return n.first == parameters[i].name; });
      if (at != named.end()) {
        slot = at->second;
        named.erase(at);
      }
    }
    caller_given |= parameters[i].name == "caller";
  }
  if (definition.caller.slot >= 0 && !caller_given) {
    auto at = std::find_if(named.begin(), named.end(), [](const auto& n) { return n.first == "caller"; });
    Value caller = at != named.end() ? at->second : Value::none();
    if (at != named.end()) named.erase(at);
    variable(frame, definition.caller) = caller.is_none() ? undefined("No caller defined") : caller;
  }
  if (definition.kwargs.slot >= 0) {
    auto* kwargs = make<DictObject>();
    for (const auto& [name, value] : named) kwargs->set(*this, string(name), value);
    variable(frame, definition.kwargs) = Value::object(Kind::kDict, kwargs);
  } else if (!named.empty()) {
    raise("macro '{}' takes no keyword argument '{}'", definition.name, named[0].first);
  }
  size_t taken = std::min(args.positional.size(), parameters.size());
  if (definition.varargs.slot >= 0) {
    variable(frame, definition.varargs) =
        tuple({args.positional.begin() + static_cast<std::ptrdiff_t>(taken), args.positional.end()});
  } else if (args.positional.size() > taken) {
    raise("macro '{}' takes not more than {} argument(s)", definition.name, parameters.size());
  }
  enter_scope(frame, definition.loads);
  for (const Parameter& parameter : parameters) {
    Value& slot = variable(frame, parameter.variable);
    if (!slot.is_missing()) continue;
    Value value = parameter.otherwise != nullptr
                      ? evaluate(frame, *parameter.otherwise)
                      : undefined(fmt::format("parameter '{}' was not provided", parameter.name));
    slot = value;
  }
  Builder out(*this);
  execute(frame, definition.body, &out);
  return out.value();
}

}  // namespace tessera::jinja
