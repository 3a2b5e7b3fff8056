// The expression half of the parser, and what both halves share. Internal to jinja_parser*.cc.
#pragma once

#include <string>
#include <vector>

#include "text/jinja_ast.h"
#include "text/jinja_lexer.h"

namespace tessera::jinja {

class ExpressionParser {
 protected:
  ExpressionParser(std::vector<Token> tokens, Program* program) : tokens_(std::move(tokens)), program_(*program) {}

  // Tokens. `kind:text` tests are split into two arguments.
  const Token& current() const { return tokens_[at_]; }
  const Token& look() const { return tokens_[at_ + 1 < tokens_.size() ? at_ + 1 : at_]; }
  Token next() { return at_ + 1 < tokens_.size() ? tokens_[at_++] : tokens_[at_]; }
  bool is(TokenKind kind) const { return current().kind == kind; }
  bool is_name(std::string_view text) const { return is(TokenKind::kName) && current().text == text; }
  bool is_operator(std::string_view text) const { return is(TokenKind::kOperator) && current().text == text; }
  bool skip_name(std::string_view text);
  bool skip_operator(std::string_view text);
  Token expect(TokenKind kind, const char* what);
  Token expect_name(std::string_view text);
  void expect_operator(std::string_view text);
  [[noreturn]] void error(const std::string& what, int line = 0) const;

  // Guards the recursion of the parser itself.
  class Nesting {
   public:
    explicit Nesting(ExpressionParser& parser);
    ~Nesting() { --parser_.nesting_; }
    Nesting(const Nesting&) = delete;
    Nesting& operator=(const Nesting&) = delete;

   private:
    ExpressionParser& parser_;
  };

  struct TupleOptions {
    bool conditional = true;         // a bare `if` belongs to the expression
    bool targets = false;            // only names, literals and ns.name
    bool parentheses = false;        // an empty tuple is one
    const char* end_name = nullptr;  // a name that ends the tuple
  };
  ExprPtr parse_tuple(const TupleOptions& options);
  ExprPtr parse_expression(bool conditional = true);
  ExprPtr parse_primary(bool namespaces = false);
  ExprPtr parse_filter(ExprPtr value, bool inline_start);
  Value constant_string(const std::string& bytes);

  ExprPtr make(ExprKind kind, int line) const;
  ExprPtr finish(ExprPtr expr) const;  // computes and checks the height

 private:
  ExprPtr parse_conditional();
  ExprPtr parse_or();
  ExprPtr parse_and();
  ExprPtr parse_not();
  ExprPtr parse_compare();
  ExprPtr parse_sum();
  ExprPtr parse_concat();
  ExprPtr parse_product();
  ExprPtr parse_power();
  ExprPtr parse_unary(bool with_filter = true);
  ExprPtr parse_postfix(ExprPtr value);
  ExprPtr parse_filters_and_tests(ExprPtr value);
  ExprPtr parse_subscript(ExprPtr object);
  ExprPtr parse_subscribed();
  ExprPtr parse_call(ExprPtr callee);
  ExprPtr parse_test(ExprPtr value);
  ExprPtr parse_list();
  ExprPtr parse_dict();
  void parse_arguments(Expr* call);
  bool tuple_ends(const TupleOptions& options) const;
  ExprPtr binary(BinaryOperator op, ExprPtr left, ExprPtr right, int line) const;

 protected:
  std::vector<Token> tokens_;
  size_t at_ = 0;
  Program& program_;
  int nesting_ = 0;
};

}  // namespace tessera::jinja
