// Expressions.
#include "text/jinja_access.h"
#include "text/jinja_builtins.h"
#include "text/jinja_interpreter.h"
#include "text/jinja_operators.h"
#include "text/jinja_print.h"

namespace tessera::jinja {

Value Interpreter::evaluate(Activation* frame, const Expr& expr) {
  if (expr.kind == ExprKind::kConstant) return expr.constant;
  Depth depth(*this);
  step();
  line_ = expr.line;
  const auto& children = expr.children;
  switch (expr.kind) {
    case ExprKind::kName:
      return evaluate_name(frame, expr);
    case ExprKind::kTuple:
    case ExprKind::kList:
      return evaluate_items(frame, expr);
    case ExprKind::kDict:
      return evaluate_dict(frame, expr);
    case ExprKind::kNot:
      return Value::boolean(!truthy(*this, evaluate(frame, *children[0])));
    case ExprKind::kNegate:
      return negate(evaluate(frame, *children[0]));
    case ExprKind::kPositive:
      return positive(evaluate(frame, *children[0]));
    case ExprKind::kBinary: {
      Value left = evaluate(frame, *children[0]);
      Value right = evaluate(frame, *children[1]);
      line_ = expr.line;
      return binary(*this, expr.op, left, right);
    }
    case ExprKind::kAnd:
    case ExprKind::kOr: {
      Value left = evaluate(frame, *children[0]);
      return truthy(*this, left) == (expr.kind == ExprKind::kOr) ? left : evaluate(frame, *children[1]);
    }
    case ExprKind::kConcat:
      return evaluate_concat(frame, expr);
    case ExprKind::kCompare:
      return evaluate_compare(frame, expr);
    case ExprKind::kConditional:
      return evaluate_conditional(frame, expr);
    case ExprKind::kAttribute:
      return get_attribute(*this, evaluate(frame, *children[0]), expr.name);
    case ExprKind::kItem: {
      Value object = evaluate(frame, *children[0]);
      Value key = evaluate(frame, *children[1]);
      line_ = expr.line;
      return get_item(*this, object, key);
    }
    case ExprKind::kSlice:
      return evaluate_slice(frame, expr);
    case ExprKind::kFilter:
      return evaluate_filter(frame, expr, nullptr);
    case ExprKind::kTest:
      return evaluate_test(frame, expr);
    case ExprKind::kCall:
      return evaluate_call(frame, expr, nullptr);
    case ExprKind::kConstant:
    case ExprKind::kNamespaceRef:
      break;
  }
  return expr.constant;
}

Value Interpreter::evaluate_name(Activation* frame, const Expr& expr) {
  const Value& value = variable(frame, expr.variable);
  return value.is_missing() ? undefined(fmt::format("'{}' is undefined", expr.name)) : value;
}

Value Interpreter::evaluate_items(Activation* frame, const Expr& expr) {
  std::vector<Value> items;
  items.reserve(expr.children.size());
  for (const ExprPtr& child : expr.children) items.push_back(evaluate(frame, *child));
  return expr.kind == ExprKind::kList ? list(std::move(items)) : tuple(std::move(items));
}

Value Interpreter::evaluate_dict(Activation* frame, const Expr& expr) {
  auto* dict = make<DictObject>();
  for (size_t i = 0; i + 1 < expr.children.size(); i += 2) {
    Value key = evaluate(frame, *expr.children[i]);
    dict->set(*this, key, evaluate(frame, *expr.children[i + 1]));
  }
  return Value::object(Kind::kDict, dict);
}

Value Interpreter::evaluate_concat(Activation* frame, const Expr& expr) {
  std::vector<Value> parts;
  for (const ExprPtr& child : expr.children) parts.push_back(evaluate(frame, *child));
  Builder out(*this);
  for (const Value& part : parts) append_str(*this, part, &out);
  return out.value();
}

Value Interpreter::evaluate_compare(Activation* frame, const Expr& expr) {
  Value left = evaluate(frame, *expr.children[0]);
  for (size_t i = 0; i < expr.compare.size(); ++i) {
    Value right = evaluate(frame, *expr.children[i + 1]);
    line_ = expr.line;
    if (!jinja::compare(*this, expr.compare[i], left, right)) return Value::boolean(false);
    left = right;
  }
  return Value::boolean(true);
}

Value Interpreter::evaluate_conditional(Activation* frame, const Expr& expr) {
  if (truthy(*this, evaluate(frame, *expr.children[0]))) return evaluate(frame, *expr.children[1]);
  if (expr.children[2] != nullptr) return evaluate(frame, *expr.children[2]);
  return undefined(fmt::format(
      "the inline if-expression on line {} evaluated to false and no else section was defined.", expr.line));
}

Value Interpreter::evaluate_slice(Activation* frame, const Expr& expr) {
  Value parts[4];
  for (size_t i = 0; i < 4; ++i) {
    parts[i] = expr.children[i] != nullptr ? evaluate(frame, *expr.children[i]) : Value::none();
  }
  line_ = expr.line;
  return get_slice(*this, parts[0], parts[1], parts[2], parts[3]);
}

Args Interpreter::evaluate_arguments(Activation* frame, const Expr& expr) {
  Args args;
  for (size_t i = 1; i < expr.children.size(); ++i) args.positional.push_back(evaluate(frame, *expr.children[i]));
  if (expr.more_positional != nullptr) {
    std::vector<Value> more = to_vector(*this, evaluate(frame, *expr.more_positional));
    args.positional.insert(args.positional.end(), more.begin(), more.end());
  }
  for (const auto& [name, value] : expr.named) args.named.emplace_back(name, evaluate(frame, *value));
  if (expr.more_named != nullptr) {
    Value more = evaluate(frame, *expr.more_named);
    if (!more.is(Kind::kDict)) raise("argument after ** must be a mapping, not {}", type_name(more));
    for (const auto& [key, value] : more.dict().entries) {
      if (!key.is_string()) raise("keywords must be strings");
      for (const auto& [name, other] : args.named) {
        if (name == key.bytes()) raise("got multiple values for keyword argument '{}'", name);
      }
      step(static_cast<int64_t>(args.named.size()));
      args.named.emplace_back(std::string(key.bytes()), value);
    }
  }
  return args;
}

Value Interpreter::evaluate_filter(Activation* frame, const Expr& expr, const Value* input) {
  // The first filter of a chain in a filter or set block has no value of its own.
  const ExprPtr& inner = expr.children[0];
  Value value = inner == nullptr                                       ? *input
                : inner->kind == ExprKind::kFilter && input != nullptr ? evaluate_filter(frame, *inner, input)
                                                                       : evaluate(frame, *inner);
  Args args = evaluate_arguments(frame, expr);
  step();
  line_ = expr.line;
  return run_filter(*this, expr.name, value, args);
}

Value Interpreter::evaluate_test(Activation* frame, const Expr& expr) {
  Value value = evaluate(frame, *expr.children[0]);
  Args args = evaluate_arguments(frame, expr);
  line_ = expr.line;
  return Value::boolean(run_test(*this, expr.name, value, args));
}

Value Interpreter::evaluate_call(Activation* frame, const Expr& expr, const Value* caller) {
  Value callee = evaluate(frame, *expr.children[0]);
  Args args = evaluate_arguments(frame, expr);
  if (caller != nullptr) {
    for (const auto& [name, value] : args.named) {
      if (name == "caller") raise("got multiple values for keyword argument 'caller'");
    }
    args.named.emplace_back("caller", *caller);
  }
  line_ = expr.line;
  return call(callee, args);
}

}  // namespace tessera::jinja
