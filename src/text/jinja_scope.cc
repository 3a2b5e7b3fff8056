// Which variable a name is. jinja2 decides this before rendering: a scope that assigns a name anywhere owns it, starts
// it as a copy of the outer variable (or of what the caller passed), and loses it at its end; macros see the variables
// around their definition. Scopes: the template, macro, call and for bodies, set and filter blocks, with.
#include <map>
#include <set>

#include "core/error.h"
#include "text/jinja_builtins.h"
#include "text/jinja_lexer.h"
#include "text/jinja_parser.h"

namespace tessera::jinja {

namespace {

constexpr int kMaxSlots = 4000;  // variables of one function; copying them for every `if` stays cheap

struct Function {  // owns slots; one activation at run time
  const Function* outer;
  int slots = 0;
};

// The names of one scope. Copied for each branch of an `if`, then merged.
class Symbols {
 public:
  Symbols(const Symbols* parent, Function* function)
      : parent_(parent), function_(function), all_slots_(std::make_shared<std::map<std::string, int>>()) {}

  Function* function() const { return function_; }

  bool find(const std::string& name, VariableRef* out) const {
    out->hops = 0;
    for (const Symbols* s = this; s != nullptr; s = s->parent_) {
      if (auto at = s->slots_.find(name); at != s->slots_.end()) {
        out->slot = at->second;
        return true;
      }
      if (s->parent_ != nullptr && s->parent_->function_ != s->function_) ++out->hops;
    }
    return false;
  }

  void load(const std::string& name) {
    VariableRef found;
    if (!find(name, &found)) define(name, {ScopeLoad::Action::kResolve, -1, name, {}});
  }

  void store(const std::string& name) {
    stores_.insert(name);
    if (slots_.count(name) != 0) return;
    define(name, initial(name, ScopeLoad::Action::kUndefined));
  }

  VariableRef parameter(const std::string& name) {
    stores_.insert(name);
    int slot = slot_of(name);
    loads_.erase(slot);
    return {0, slot};
  }

  // After an `if`: what only some branch assigns keeps its outer value in the others.
  void merge(const std::vector<Symbols>& branches) {
    std::set<std::string> stored;
    for (const Symbols& branch : branches) stored.insert(branch.stores_.begin(), branch.stores_.end());
    for (const std::string& name : stores_) stored.erase(name);
    for (const Symbols& branch : branches) {
      for (const auto& [name, slot] : branch.slots_) slots_[name] = slot;
      for (const auto& [slot, load] : branch.loads_) loads_[slot] = load;
      stores_.insert(branch.stores_.begin(), branch.stores_.end());
    }
    for (const std::string& name : stored) define(name, initial(name, ScopeLoad::Action::kResolve));
  }

  std::vector<ScopeLoad> loads() const {
    std::vector<ScopeLoad> list;
    for (const auto& [slot, load] : loads_) list.push_back(load);
    return list;
  }

 private:
  ScopeLoad initial(const std::string& name, ScopeLoad::Action without_outer) const {
    VariableRef outer;
    bool found = parent_ != nullptr && parent_->find(name, &outer);
    if (!found) return {without_outer, -1, name, {}};
    if (parent_->function_ != function_) ++outer.hops;
    return {ScopeLoad::Action::kAlias, -1, name, outer};
  }

  void define(const std::string& name, ScopeLoad load) {
    load.slot = slot_of(name);
    loads_[load.slot] = std::move(load);
  }

  int slot_of(const std::string& name) {
    auto [at, fresh] = all_slots_->try_emplace(name, function_->slots);
    if (fresh && ++function_->slots > kMaxSlots) fail(ErrorCode::kUnsupported, "more than {} variables", kMaxSlots);
    slots_[name] = at->second;
    return at->second;
  }

  const Symbols* parent_;
  Function* function_;
  std::map<std::string, int> slots_;
  std::map<int, ScopeLoad> loads_;
  std::set<std::string> stores_;
  std::shared_ptr<std::map<std::string, int>> all_slots_;  // of this scope, shared by its branches
};

// ---- First pass over a scope: which names it loads and stores.

void analyze(Symbols* symbols, const Expr& expr) {
  if (expr.kind == ExprKind::kName) return symbols->load(expr.name);
  for (const ExprPtr& child : expr.children) {
    if (child != nullptr) analyze(symbols, *child);
  }
  for (const auto& [name, child] : expr.named) analyze(symbols, *child);
  if (expr.more_positional != nullptr) analyze(symbols, *expr.more_positional);
  if (expr.more_named != nullptr) analyze(symbols, *expr.more_named);
}

void analyze_target(Symbols* symbols, const Expr& target, bool parameter) {
  if (target.kind == ExprKind::kName) {
    parameter ? static_cast<void>(symbols->parameter(target.name)) : symbols->store(target.name);
  } else if (target.kind == ExprKind::kNamespaceRef) {
    symbols->load(target.name);
  }
  for (const ExprPtr& item : target.children) analyze_target(symbols, *item, parameter);
}

void analyze(Symbols* symbols, const Block& block);

// jinja2 counts three branches: the first, all `elif` together, and `else`.
void analyze_if(Symbols* symbols, const Stmt& stmt) {
  const auto& branches = stmt.branches;
  analyze(symbols, *branches[0].test);
  std::vector<Symbols> parts(1, *symbols);
  analyze(&parts[0], branches[0].body);
  size_t i = 1;
  if (i < branches.size() && branches[i].test != nullptr) {
    Symbols elifs = *symbols;
    for (; i < branches.size() && branches[i].test != nullptr; ++i) {
      analyze(&elifs, *branches[i].test);
      std::vector<Symbols> inner(1, elifs);
      analyze(&inner[0], branches[i].body);
      elifs.merge(inner);
    }
    parts.push_back(std::move(elifs));
  }
  if (i < branches.size()) {
    parts.push_back(*symbols);
    analyze(&parts.back(), branches[i].body);
  }
  symbols->merge(parts);
}

void analyze(Symbols* symbols, const Stmt& stmt) {
  switch (stmt.kind) {
    case StmtKind::kOutput:
      for (const ExprPtr& expr : stmt.exprs) analyze(symbols, *expr);
      return;
    case StmtKind::kIf:
      return analyze_if(symbols, stmt);
    case StmtKind::kFor:
    case StmtKind::kCallBlock:
    case StmtKind::kFilterBlock:
      return analyze(symbols, *stmt.value);
    case StmtKind::kSet:
      analyze(symbols, *stmt.value);
      return analyze_target(symbols, *stmt.target, false);
    case StmtKind::kSetBlock:
      return analyze_target(symbols, *stmt.target, false);
    case StmtKind::kMacro:
      return symbols->store(stmt.name);
    case StmtKind::kWith:
      for (size_t i = 1; i < stmt.exprs.size(); i += 2) analyze(symbols, *stmt.exprs[i]);
      return;
    case StmtKind::kGeneration:
    case StmtKind::kBreak:
    case StmtKind::kContinue:
      return;
  }
}

void analyze(Symbols* symbols, const Block& block) {
  for (const auto& stmt : block) analyze(symbols, *stmt);
}

// ---- Whether a body asks for one of the special names, unless it assigns that name first.

class SpecialNames {
 public:
  explicit SpecialNames(std::set<std::string> names) : names_(std::move(names)) {}
  bool asked(const std::string& name) const { return asked_.count(name) != 0; }

  void visit(const Block& block) {
    for (const auto& stmt : block) visit(*stmt);
  }

 private:
  void seen(const std::string& name, bool loaded) {
    if (names_.count(name) == 0) return;
    if (loaded) {
      asked_.insert(name);
    } else {
      names_.erase(name);
    }
  }

  void visit(const Expr& expr, bool target = false) {
    if (expr.kind == ExprKind::kName) seen(expr.name, !target);
    for (const ExprPtr& child : expr.children) {
      if (child != nullptr) visit(*child, target);
    }
    for (const auto& [name, child] : expr.named) visit(*child);
    if (expr.more_positional != nullptr) visit(*expr.more_positional);
    if (expr.more_named != nullptr) visit(*expr.more_named);
  }

  void visit(const Stmt& stmt) {
    if (stmt.kind == StmtKind::kCallBlock) visit(*stmt.value);
    if (stmt.target != nullptr) visit(*stmt.target, true);
    if (stmt.value != nullptr && stmt.kind != StmtKind::kCallBlock && stmt.kind != StmtKind::kFilterBlock)
      visit(*stmt.value);
    if (stmt.kind == StmtKind::kWith) {
      for (size_t i = 0; i < stmt.exprs.size(); i += 2) visit(*stmt.exprs[i], true);
      for (size_t i = 1; i < stmt.exprs.size(); i += 2) visit(*stmt.exprs[i]);
    } else {
      for (const ExprPtr& expr : stmt.exprs) visit(*expr);
    }
    for (const Parameter& parameter : stmt.parameters) seen(parameter.name, false);
    for (const Parameter& parameter : stmt.parameters) {
      if (parameter.otherwise != nullptr) visit(*parameter.otherwise);
    }
    for (const Branch& branch : stmt.branches) {
      if (branch.test != nullptr) visit(*branch.test);
      visit(branch.body);
    }
    visit(stmt.body);
    if (stmt.kind == StmtKind::kFilterBlock) visit(*stmt.value);
    visit(stmt.otherwise);
    if (stmt.condition != nullptr) visit(*stmt.condition);
  }

  std::set<std::string> names_;
  std::set<std::string> asked_;
};

// ---- Second pass: names become slots, inner scopes are entered.

ExprPtr copy_target(const Expr& target) {
  auto copy = std::make_unique<Expr>();
  copy->kind = target.kind;
  copy->line = target.line;
  copy->name = target.name;
  for (const ExprPtr& item : target.children) copy->children.push_back(copy_target(*item));
  return copy;
}

class Binder {
 public:
  explicit Binder(Program* program) : program_(*program) {}

  void run() {
    Function function{nullptr};
    Symbols symbols(nullptr, &function);
    analyze(&symbols, program_.body);
    bind(&symbols, &program_.body, false);
    program_.loads = symbols.loads();
    program_.slots = function.slots;
  }

 private:
  [[noreturn]] void error(int line, const std::string& what) const { syntax_error(program_.name, line, what); }

  // `soft`: an unknown filter or test is an error only when it runs (jinja2: directly under `if` or in `a if b else
  // c`).
  void bind(Symbols* symbols, Expr* expr, bool soft) {
    if (expr->kind == ExprKind::kName || expr->kind == ExprKind::kNamespaceRef) {
      if (!symbols->find(expr->name, &expr->variable)) {
        symbols->load(expr->name);  // the filter of a set block is not part of any scope in jinja2
        symbols->find(expr->name, &expr->variable);
      }
    }
    if (expr->kind == ExprKind::kFilter && find_filter(expr->name) == nullptr && !soft) {
      error(expr->line, fmt::format("No filter named '{}'.", expr->name));
    }
    if (expr->kind == ExprKind::kTest && find_test(expr->name) == nullptr && !soft) {
      error(expr->line, fmt::format("No test named '{}'.", expr->name));
    }
    bool inner = soft || expr->kind == ExprKind::kConditional;
    for (ExprPtr& child : expr->children) {
      if (child != nullptr) bind(symbols, child.get(), inner);
    }
    for (auto& [name, child] : expr->named) bind(symbols, child.get(), inner);
    if (expr->more_positional != nullptr) bind(symbols, expr->more_positional.get(), inner);
    if (expr->more_named != nullptr) bind(symbols, expr->more_named.get(), inner);
  }

  void bind_target(Symbols* symbols, Expr* target) {
    if (target->kind == ExprKind::kName && target->name == "loop" && fors_ > 0) {
      error(target->line, "Can't assign to special loop variable in for-loop target");
    }
    bind(symbols, target, false);
    for (ExprPtr& item : target->children) bind_target(symbols, item.get());
  }

  void bind(Symbols* symbols, Block* block, bool soft) {
    for (auto& stmt : *block) bind(symbols, stmt.get(), soft);
  }

  void bind(Symbols* symbols, Stmt* stmt, bool soft) {
    switch (stmt->kind) {
      case StmtKind::kOutput:
        for (ExprPtr& expr : stmt->exprs) bind(symbols, expr.get(), soft);
        return;
      case StmtKind::kIf:
        for (Branch& branch : stmt->branches) {
          if (branch.test != nullptr) bind(symbols, branch.test.get(), true);
          bind(symbols, &branch.body, true);
        }
        return;
      case StmtKind::kFor:
        return bind_for(symbols, stmt, soft);
      case StmtKind::kSet:
        bind(symbols, stmt->value.get(), soft);
        return bind_target(symbols, stmt->target.get());
      case StmtKind::kSetBlock:
        return bind_set_block(symbols, stmt);
      case StmtKind::kMacro:
        symbols->find(stmt->name, &stmt->variable);
        return bind_function(symbols, stmt);
      case StmtKind::kCallBlock:
        bind(symbols, stmt->value.get(), soft);
        return bind_function(symbols, stmt);
      case StmtKind::kGeneration:
        return bind_function(symbols, stmt);
      case StmtKind::kFilterBlock: {
        Symbols inner(symbols, symbols->function());
        analyze(&inner, stmt->body);
        analyze(&inner, *stmt->value);
        bind(&inner, &stmt->body, false);
        bind(&inner, stmt->value.get(), false);
        stmt->loads = inner.loads();
        return;
      }
      case StmtKind::kWith:
        return bind_with(symbols, stmt, soft);
      case StmtKind::kBreak:
      case StmtKind::kContinue:
        return;
    }
  }

  void bind_set_block(Symbols* symbols, Stmt* stmt) {
    Symbols inner(symbols, symbols->function());
    analyze(&inner, stmt->body);
    bind(&inner, &stmt->body, false);
    if (stmt->value != nullptr) bind(&inner, stmt->value.get(), false);
    bind_target(symbols, stmt->target.get());
    stmt->loads = inner.loads();
  }

  void bind_with(Symbols* symbols, Stmt* stmt, bool soft) {
    Symbols inner(symbols, symbols->function());
    for (size_t i = 0; i < stmt->exprs.size(); i += 2) analyze_target(&inner, *stmt->exprs[i], true);
    analyze(&inner, stmt->body);
    for (size_t i = 0; i < stmt->exprs.size(); i += 2) bind(&inner, stmt->exprs[i].get(), false);
    for (size_t i = 1; i < stmt->exprs.size(); i += 2) bind(symbols, stmt->exprs[i].get(), soft);
    bind(&inner, &stmt->body, false);
    stmt->loads = inner.loads();
  }

  void bind_function(Symbols* symbols, Stmt* stmt) {
    Function function{symbols->function()};
    Symbols inner(symbols, &function);
    SpecialNames special({"caller", "kwargs", "varargs"});
    special.visit(stmt->body);
    const Parameter* explicit_caller = nullptr;
    std::set<std::string> names;
    for (Parameter& parameter : stmt->parameters) {
      parameter.variable = inner.parameter(parameter.name);
      names.insert(parameter.name);
      if (parameter.name == "caller") explicit_caller = &parameter;
    }
    if (special.asked("caller")) {
      if (explicit_caller == nullptr) {
        stmt->caller = inner.parameter("caller");
      } else if (explicit_caller->otherwise == nullptr) {
        error(stmt->line, "the special \"caller\" argument of a macro must be omitted or be given a default");
      }
    }
    if (special.asked("kwargs") && names.count("kwargs") == 0) stmt->kwargs = inner.parameter("kwargs");
    if (special.asked("varargs") && names.count("varargs") == 0) stmt->varargs = inner.parameter("varargs");
    for (const Parameter& parameter : stmt->parameters) {
      if (parameter.otherwise != nullptr) analyze(&inner, *parameter.otherwise);
    }
    analyze(&inner, stmt->body);
    for (Parameter& parameter : stmt->parameters) {
      if (parameter.otherwise != nullptr) bind(&inner, parameter.otherwise.get(), false);
    }
    bind(&inner, &stmt->body, false);
    stmt->loads = inner.loads();
    stmt->slots = function.slots;
  }

  void bind_for(Symbols* symbols, Stmt* stmt, bool soft) {
    ++fors_;
    bind(symbols, stmt->value.get(), soft);
    Function own{symbols->function()};
    Function* function = stmt->recursive ? &own : symbols->function();
    Symbols body(symbols, function);
    SpecialNames special({"loop"});
    special.visit(stmt->body);
    if (stmt->recursive || special.asked("loop")) stmt->loop = body.parameter("loop");
    analyze_target(&body, *stmt->target, true);
    analyze(&body, stmt->body);
    if (stmt->condition != nullptr) {
      Symbols condition(symbols, function);
      stmt->condition_target = copy_target(*stmt->target);
      analyze_target(&condition, *stmt->condition_target, true);
      analyze(&condition, *stmt->condition);
      bind(&condition, stmt->condition_target.get(), false);
      bind(&condition, stmt->condition.get(), false);
      stmt->condition_loads = condition.loads();
    }
    bind_target(&body, stmt->target.get());
    bind(&body, &stmt->body, false);
    stmt->loads = body.loads();
    Symbols otherwise(symbols, function);
    analyze(&otherwise, stmt->otherwise);
    bind(&otherwise, &stmt->otherwise, false);
    stmt->otherwise_loads = otherwise.loads();
    stmt->slots = own.slots;
    --fors_;
  }

  Program& program_;
  int fors_ = 0;
};

}  // namespace

void bind_names(Program* program) {
  Binder(program).run();
}

}  // namespace tessera::jinja
