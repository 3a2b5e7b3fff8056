#include "text/jinja_parser.h"

#include <utility>

#include "core/error.h"
#include "text/jinja_parser_base.h"

namespace tessera::jinja {

namespace {

bool is_literal_name(const std::string& name) {
  return name == "true" || name == "True" || name == "false" || name == "False" || name == "none" || name == "None";
}

class Parser : public ExpressionParser {
 public:
  Parser(std::vector<Token> tokens, Program* program) : ExpressionParser(std::move(tokens), program) {}

  void run() {
    program_.body = parse_body({});
    if (!is(TokenKind::kEnd)) error("unexpected text behind the template");
  }

 private:
  using StmtPtr = std::unique_ptr<Stmt>;
  using EndNames = std::initializer_list<const char*>;

  StmtPtr statement(StmtKind kind, int line) const {
    auto stmt = std::make_unique<Stmt>();
    stmt->kind = kind;
    stmt->line = line;
    return stmt;
  }

  bool at_any(const EndNames& ends) const {
    for (const char* end : ends) {
      if (is_name(end)) return true;
    }
    return false;
  }

  // Text and tags up to a tag whose name is one of `ends`, with that name current; up to the end when there is none.
  Block parse_body(const EndNames& ends) {
    Block body;
    StmtPtr output;
    auto flush = [&] {
      if (output != nullptr) body.push_back(std::move(output));
    };
    auto add = [&](ExprPtr expr) {
      if (output == nullptr) output = statement(StmtKind::kOutput, expr->line);
      output->exprs.push_back(std::move(expr));
    };
    while (!is(TokenKind::kEnd)) {
      if (is(TokenKind::kData)) {
        ExprPtr text = make(ExprKind::kConstant, current().line);
        text->constant = constant_string(next().text);
        add(std::move(text));
      } else if (is(TokenKind::kVariableBegin)) {
        next();
        add(parse_tuple({}));
        expect(TokenKind::kVariableEnd, "end of print statement");
      } else {
        expect(TokenKind::kBlockBegin, "begin of statement block");
        flush();
        if (at_any(ends)) return body;
        body.push_back(parse_statement());
        expect(TokenKind::kBlockEnd, "end of statement block");
      }
    }
    flush();
    return body;
  }

  // The body of a statement, behind its tag; the name that ended it is returned and skipped.
  Block parse_block(const EndNames& ends, std::string* end = nullptr) {
    skip_operator(":");
    expect(TokenKind::kBlockEnd, "end of statement block");
    Block body = parse_body(ends);
    if (is(TokenKind::kEnd)) {
      error(fmt::format("Unexpected end of template. Jinja was looking for the tag '{}'.", *ends.begin()));
    }
    std::string name = next().text;
    if (end != nullptr) *end = name;
    return body;
  }

  StmtPtr parse_statement() {
    Nesting nesting(*this);
    if (!is(TokenKind::kName)) error("tag name expected");
    const std::string& tag = current().text;
    if (tag == "for") return parse_for();
    if (tag == "if") return parse_if();
    if (tag == "set") return parse_set();
    if (tag == "macro") return parse_macro();
    if (tag == "call") return parse_call_block();
    if (tag == "filter") return parse_filter_block();
    if (tag == "with") return parse_with();
    if (tag == "print") return parse_print();
    if (tag == "generation") return parse_generation();
    if (tag == "break" || tag == "continue") return parse_loop_control();
    for (const char* refused : {"block", "extends", "include", "import", "from", "autoescape"}) {
      if (tag == refused) {
        fail(ErrorCode::kUnsupported, "{}:{}: {{% {} %}} is not supported in a chat template", program_.name,
             current().line, tag);
      }
    }
    error(fmt::format("Encountered unknown tag '{}'.", tag));
  }

  StmtPtr parse_for() {
    StmtPtr stmt = statement(StmtKind::kFor, next().line);
    stmt->target = parse_target({.targets = true, .end_name = "in"}, false);
    expect_name("in");
    stmt->value = parse_tuple({.conditional = false, .end_name = "recursive"});
    if (skip_name("if")) stmt->condition = parse_expression();
    stmt->recursive = skip_name("recursive");
    ++loops_;
    std::string end;
    stmt->body = parse_block({"endfor", "else"}, &end);
    --loops_;
    if (end == "else") stmt->otherwise = parse_block({"endfor"});
    return stmt;
  }

  StmtPtr parse_if() {
    StmtPtr stmt = statement(StmtKind::kIf, next().line);
    std::string end;
    do {
      Branch branch;
      branch.test = parse_tuple({.conditional = false});
      branch.body = parse_block({"elif", "else", "endif"}, &end);
      stmt->branches.push_back(std::move(branch));
    } while (end == "elif");
    if (end == "else") {
      Branch branch;
      branch.body = parse_block({"endif"});
      stmt->branches.push_back(std::move(branch));
    }
    return stmt;
  }

  StmtPtr parse_set() {
    StmtPtr stmt = statement(StmtKind::kSet, next().line);
    stmt->target = parse_target({.targets = true});
    if (skip_operator("=")) {
      stmt->value = parse_tuple({});
      return stmt;
    }
    stmt->kind = StmtKind::kSetBlock;
    stmt->value = parse_filter(nullptr, false);
    stmt->body = parse_block({"endset"});
    return stmt;
  }

  StmtPtr parse_macro() {
    StmtPtr stmt = statement(StmtKind::kMacro, next().line);
    stmt->name = target_name();
    parse_signature(stmt.get());
    parse_function_body(stmt.get(), "endmacro");
    return stmt;
  }

  StmtPtr parse_call_block() {
    StmtPtr stmt = statement(StmtKind::kCallBlock, next().line);
    if (is_operator("(")) parse_signature(stmt.get());
    stmt->value = parse_expression();
    if (stmt->value->kind != ExprKind::kCall) error("expected call", stmt->line);
    parse_function_body(stmt.get(), "endcall");
    return stmt;
  }

  StmtPtr parse_generation() {
    StmtPtr stmt = statement(StmtKind::kGeneration, next().line);
    parse_function_body(stmt.get(), "endgeneration");
    return stmt;
  }

  // A loop around a function is not a loop inside it: `break` there is an error.
  void parse_function_body(Stmt* stmt, const char* end) {
    int outer_loops = std::exchange(loops_, 0);
    stmt->body = parse_block({end});
    loops_ = outer_loops;
  }

  StmtPtr parse_filter_block() {
    StmtPtr stmt = statement(StmtKind::kFilterBlock, next().line);
    stmt->value = parse_filter(nullptr, true);
    stmt->body = parse_block({"endfilter"});
    return stmt;
  }

  StmtPtr parse_with() {
    StmtPtr stmt = statement(StmtKind::kWith, next().line);
    while (!is(TokenKind::kBlockEnd)) {
      if (!stmt->exprs.empty()) expect_operator(",");
      stmt->exprs.push_back(parse_target({.targets = true}, false));
      expect_operator("=");
      stmt->exprs.push_back(parse_expression());
    }
    stmt->body = parse_block({"endwith"});
    return stmt;
  }

  StmtPtr parse_print() {
    StmtPtr stmt = statement(StmtKind::kOutput, next().line);
    while (!is(TokenKind::kBlockEnd)) {
      if (!stmt->exprs.empty()) expect_operator(",");
      stmt->exprs.push_back(parse_expression());
    }
    return stmt;
  }

  StmtPtr parse_loop_control() {
    StmtPtr stmt = statement(is_name("break") ? StmtKind::kBreak : StmtKind::kContinue, current().line);
    if (loops_ == 0) error(fmt::format("'{}' outside loop", current().text));
    next();
    return stmt;
  }

  std::string target_name() {
    Token token = expect(TokenKind::kName, "name");
    if (is_literal_name(token.text)) error("can't assign to 'name'", token.line);
    return token.text;
  }

  void parse_signature(Stmt* stmt) {
    expect_operator("(");
    while (!is_operator(")")) {
      if (!stmt->parameters.empty()) expect_operator(",");
      Parameter parameter;
      parameter.line = current().line;
      parameter.name = target_name();
      for (const Parameter& other : stmt->parameters) {
        if (other.name == parameter.name) error(fmt::format("duplicate argument '{}'", parameter.name));
      }
      if (skip_operator("=")) {
        parameter.otherwise = parse_expression();
      } else if (!stmt->parameters.empty() && stmt->parameters.back().otherwise != nullptr) {
        error("non-default argument follows default argument");
      }
      stmt->parameters.push_back(std::move(parameter));
    }
    next();
  }

  ExprPtr parse_target(const TupleOptions& options, bool namespaces = true) {
    int line = current().line;
    ExprPtr target = parse_tuple(options);
    check_target(*target, line, namespaces);
    return target;
  }

  void check_target(const Expr& target, int line, bool namespaces) {
    if (target.kind == ExprKind::kName) return;
    if (target.kind == ExprKind::kNamespaceRef && namespaces) return;
    if (target.kind != ExprKind::kTuple) error("can't assign to this expression", line);
    for (const ExprPtr& item : target.children) check_target(*item, line, namespaces);
  }

  int loops_ = 0;
};

}  // namespace

std::shared_ptr<const Program> parse_program(std::string_view source, const std::string& name) {
  auto program = std::make_shared<Program>();
  program->name = name;
  Parser(tokenize(source, name), program.get()).run();
  bind_names(program.get());
  return program;
}

}  // namespace tessera::jinja
