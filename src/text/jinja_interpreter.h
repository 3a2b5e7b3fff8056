// Runs a program. One interpreter per render; see jinja.h for what it throws.
#pragma once

#include <unordered_map>

#include "text/jinja_ast.h"
#include "text/jinja_runtime.h"

namespace tessera::jinja {

// The variables of one call of a function: the template itself, a macro, a call block, a recursive loop.
struct Activation : Object {
  Activation(Activation* o, int slots) : outer(o), values(static_cast<size_t>(slots)) {}
  Activation* outer;  // where the function was defined
  std::vector<Value> values;
};

struct MacroObject : Object {
  MacroObject(const Stmt* d, Activation* o) : definition(d), outer(o) {}
  const Stmt* definition;
  Activation* outer;
};

// `loop`: the state of a running for statement.
struct LoopObject : Object {
  LoopObject(Runtime& rt, const Value& i, const Stmt* s, Activation* o, int d)
      : iterable(i), items(rt, i), statement(s), outer(o), depth0(d) {}
  Value iterable;
  Iteration items;
  std::vector<Value> rest;  // once the length was asked of something that has none: what is left of it
  size_t rest_at = 0;
  bool uses_rest = false;
  const Stmt* statement;  // null unless the loop is recursive
  Activation* outer;
  int depth0;
  Int index0 = -1;
  Int known_length = -1;
  Value before, now, after;  // kMissing where there is none
  Value last_changed;
};

class Interpreter : public Runtime {
 public:
  Interpreter(const Program& program, const RenderOptions& options) : Runtime(options), program_(program) {}

  Text run(const std::vector<Variable>& variables);

  Value call(const Value& callee, const Args& args) override;
  Value loop_attribute(const Value& loop, std::string_view name) override;
  bool next_of_loop(const Value& loop, Value* item) override;

  Value evaluate(Activation* frame, const Expr& expr);

 private:
  enum class Flow { kNext, kBreak, kContinue };

  // Statements (jinja_interpreter.cc).
  Flow execute(Activation* frame, const Block& block, Builder* out);
  Flow execute(Activation* frame, const Stmt& stmt, Builder* out);
  Flow execute_if(Activation* frame, const Stmt& stmt, Builder* out);
  Flow execute_for(Activation* frame, const Stmt& stmt, const Value& iterable, int depth0, Builder* out);
  Flow execute_set_block(Activation* frame, const Stmt& stmt);
  Flow execute_filter_block(Activation* frame, const Stmt& stmt, Builder* out);
  Flow execute_with(Activation* frame, const Stmt& stmt, Builder* out);
  void execute_call_block(Activation* frame, const Stmt& stmt, Builder* out);
  void execute_generation(Activation* frame, const Stmt& stmt, Builder* out);
  void print(Activation* frame, const Stmt& stmt, Builder* out);
  void enter_scope(Activation* frame, const std::vector<ScopeLoad>& loads);
  void assign(Activation* frame, const Expr& target, const Value& value);
  Value resolve(const std::string& name);
  static Value& variable(Activation* frame, VariableRef ref);
  Value call_macro(const Value& macro, const Args& args);
  Value call_loop(const Value& loop, const Args& args);
  bool advance(LoopObject* loop);
  Value peek(LoopObject* loop);
  Int loop_length(LoopObject* loop);

  // Expressions (jinja_evaluate.cc).
  Value evaluate_name(Activation* frame, const Expr& expr);
  Value evaluate_items(Activation* frame, const Expr& expr);
  Value evaluate_dict(Activation* frame, const Expr& expr);
  Value evaluate_concat(Activation* frame, const Expr& expr);
  Value evaluate_compare(Activation* frame, const Expr& expr);
  Value evaluate_conditional(Activation* frame, const Expr& expr);
  Value evaluate_slice(Activation* frame, const Expr& expr);
  Value evaluate_filter(Activation* frame, const Expr& expr, const Value* input);
  Value evaluate_test(Activation* frame, const Expr& expr);
  Value evaluate_call(Activation* frame, const Expr& expr, const Value* caller);
  Args evaluate_arguments(Activation* frame, const Expr& expr);

  friend struct FilteredItems;

  const Program& program_;
  std::unordered_map<std::string, Value> context_;  // variables of the caller, and globals once they were asked for
  int line_ = 1;                                    // of the statement or expression that runs, for messages
};

std::string describe_macro(const Value& macro);
Value macro_attribute(Runtime& rt, const Value& macro, std::string_view name);  // kMissing: no such attribute

}  // namespace tessera::jinja
