// The parsed template. Names are bound to slots by jinja_scope before the program is shared; nothing changes after
// that.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "text/jinja_operators.h"
#include "text/jinja_value.h"

namespace tessera::jinja {

struct Expr;
struct Stmt;
using ExprPtr = std::unique_ptr<Expr>;
using Block = std::vector<std::unique_ptr<Stmt>>;

// A variable: slot of the function that is `hops` functions further out.
struct VariableRef {
  int hops = 0;
  int slot = -1;
};

enum class ExprKind : uint8_t {
  kConstant,
  kName,
  kNamespaceRef,  // ns.name as a target
  kTuple,
  kList,
  kDict,  // key, value, key, value ...
  kNot,
  kNegate,
  kPositive,
  kBinary,
  kAnd,
  kOr,
  kConcat,
  kCompare,      // children[0] op[0] children[1] op[1] ...
  kConditional,  // test, then, else (may be null)
  kAttribute,
  kItem,
  kSlice,   // object, start, stop, step (the last three may be null)
  kFilter,  // children[0]: the value, null in a filter block; the others: arguments
  kTest,
  kCall,  // callee, then arguments
};

struct Expr {
  ExprKind kind = ExprKind::kConstant;
  BinaryOperator op = BinaryOperator::kAdd;
  int line = 1;
  int height = 1;  // of the tree below: evaluation recurses this deep
  Value constant;
  std::string name;
  VariableRef variable;
  std::vector<ExprPtr> children;
  std::vector<CompareOperator> compare;
  std::vector<std::pair<std::string, ExprPtr>> named;  // keyword arguments
  ExprPtr more_positional;                             // *args
  ExprPtr more_named;                                  // **kwargs
};

// What happens to a variable when its scope is entered.
struct ScopeLoad {
  enum class Action : uint8_t { kUndefined, kResolve, kAlias };
  Action action;
  int slot;
  std::string name;   // kResolve: of the context variable
  VariableRef outer;  // kAlias: copied from
};

struct Parameter {
  std::string name;
  int line;
  VariableRef variable;
  ExprPtr otherwise;  // default value, or null
};

struct Branch {
  ExprPtr test;  // null: else
  Block body;
};

enum class StmtKind : uint8_t {
  kOutput,
  kIf,
  kFor,
  kSet,
  kSetBlock,
  kMacro,
  kCallBlock,
  kGeneration,
  kFilterBlock,
  kWith,
  kBreak,
  kContinue,
};

struct Stmt {
  StmtKind kind = StmtKind::kOutput;
  int line = 1;
  std::string name;            // kMacro
  VariableRef variable;        // kMacro: where it is stored
  std::vector<ExprPtr> exprs;  // kOutput: what to print; kWith: targets and values in turn
  ExprPtr target;              // kFor, kSet, kSetBlock
  ExprPtr value;               // kFor: iterable; kSet: value; kSetBlock, kFilterBlock: filter; kCallBlock: call
  ExprPtr condition;           // kFor: `if`
  bool recursive = false;      // kFor
  std::vector<Branch> branches;
  Block body;
  Block otherwise;  // kFor: else
  std::vector<Parameter> parameters;
  VariableRef caller, kwargs, varargs;  // kMacro, kCallBlock: slot < 0 when the body does not ask for them
  VariableRef loop;                     // kFor: likewise
  std::vector<ScopeLoad> loads, condition_loads, otherwise_loads;
  ExprPtr condition_target;  // kFor: the target as the condition sees it
  int slots = 0;             // of the function that a macro, call block or recursive loop is
};

struct Program {
  std::string name;
  Block body;
  std::vector<ScopeLoad> loads;
  int slots = 0;
  std::vector<std::unique_ptr<Object>> constants;
};

}  // namespace tessera::jinja
