#include <algorithm>

#include "core/error.h"
#include "text/jinja_parser_base.h"

namespace tessera::jinja {

namespace {

constexpr int kMaxNesting = 120;  // of brackets, unary operators and statements
constexpr int kMaxHeight = 250;   // chains such as a + b + c ... ; Python gives up at about 200 too

}  // namespace

bool ExpressionParser::skip_name(std::string_view text) {
  if (!is_name(text)) return false;
  next();
  return true;
}

bool ExpressionParser::skip_operator(std::string_view text) {
  if (!is_operator(text)) return false;
  next();
  return true;
}

Token ExpressionParser::expect(TokenKind kind, const char* what) {
  if (!is(kind)) {
    error(is(TokenKind::kEnd) ? fmt::format("unexpected end of template, expected '{}'.", what)
                              : fmt::format("expected token '{}', got '{}'", what, describe(current())));
  }
  return next();
}

Token ExpressionParser::expect_name(std::string_view text) {
  if (!is_name(text)) error(fmt::format("expected token '{}', got '{}'", text, describe(current())));
  return next();
}

void ExpressionParser::expect_operator(std::string_view text) {
  if (!is_operator(text)) error(fmt::format("expected token '{}', got '{}'", text, describe(current())));
  next();
}

void ExpressionParser::error(const std::string& what, int line) const {
  syntax_error(program_.name, line != 0 ? line : current().line, what);
}

ExpressionParser::Nesting::Nesting(ExpressionParser& parser) : parser_(parser) {
  if (++parser_.nesting_ > kMaxNesting) {
    --parser_.nesting_;
    parser_.error(fmt::format("nests more than {} levels deep", kMaxNesting));
  }
}

Value ExpressionParser::constant_string(const std::string& bytes) {
  program_.constants.push_back(std::make_unique<StringObject>(Text(bytes), false));
  return Value::object(Kind::kString, program_.constants.back().get());
}

ExprPtr ExpressionParser::make(ExprKind kind, int line) const {
  auto expr = std::make_unique<Expr>();
  expr->kind = kind;
  expr->line = line;
  return expr;
}

ExprPtr ExpressionParser::finish(ExprPtr expr) const {
  auto include = [&](const ExprPtr& child) {
    if (child != nullptr) expr->height = std::max(expr->height, child->height + 1);
  };
  for (const ExprPtr& child : expr->children) include(child);
  for (const auto& [name, child] : expr->named) include(child);
  include(expr->more_positional);
  include(expr->more_named);
  if (expr->height > kMaxHeight)
    error(fmt::format("an expression chains more than {} operations", kMaxHeight), expr->line);
  return expr;
}

ExprPtr ExpressionParser::binary(BinaryOperator op, ExprPtr left, ExprPtr right, int line) const {
  ExprPtr expr = make(ExprKind::kBinary, line);
  expr->op = op;
  expr->children.push_back(std::move(left));
  expr->children.push_back(std::move(right));
  return finish(std::move(expr));
}

bool ExpressionParser::tuple_ends(const TupleOptions& options) const {
  return is(TokenKind::kVariableEnd) || is(TokenKind::kBlockEnd) || is_operator(")") ||
         (options.end_name != nullptr && is_name(options.end_name));
}

ExprPtr ExpressionParser::parse_tuple(const TupleOptions& options) {
  Nesting nesting(*this);
  int line = current().line;
  std::vector<ExprPtr> items;
  bool is_tuple = false;
  while (true) {
    if (!items.empty()) expect_operator(",");
    if (tuple_ends(options)) break;
    items.push_back(options.targets ? parse_primary(true) : parse_expression(options.conditional));
    if (!is_operator(",")) break;
    is_tuple = true;
    line = current().line;
  }
  if (!is_tuple) {
    if (!items.empty()) return std::move(items[0]);
    if (!options.parentheses) error(fmt::format("Expected an expression, got '{}'", describe(current())));
  }
  ExprPtr tuple = make(ExprKind::kTuple, line);
  tuple->children = std::move(items);
  return finish(std::move(tuple));
}

ExprPtr ExpressionParser::parse_expression(bool conditional) {
  return conditional ? parse_conditional() : parse_or();
}

ExprPtr ExpressionParser::parse_conditional() {
  Nesting nesting(*this);
  int line = current().line;
  ExprPtr value = parse_or();
  while (skip_name("if")) {
    ExprPtr expr = make(ExprKind::kConditional, line);
    expr->children.push_back(parse_or());
    expr->children.push_back(std::move(value));
    expr->children.push_back(skip_name("else") ? parse_conditional() : nullptr);
    value = finish(std::move(expr));
    line = current().line;
  }
  return value;
}

ExprPtr ExpressionParser::parse_or() {
  int line = current().line;
  ExprPtr left = parse_and();
  while (skip_name("or")) {
    ExprPtr expr = make(ExprKind::kOr, line);
    expr->children.push_back(std::move(left));
    expr->children.push_back(parse_and());
    left = finish(std::move(expr));
    line = current().line;
  }
  return left;
}

ExprPtr ExpressionParser::parse_and() {
  int line = current().line;
  ExprPtr left = parse_not();
  while (skip_name("and")) {
    ExprPtr expr = make(ExprKind::kAnd, line);
    expr->children.push_back(std::move(left));
    expr->children.push_back(parse_not());
    left = finish(std::move(expr));
    line = current().line;
  }
  return left;
}

ExprPtr ExpressionParser::parse_not() {
  if (!is_name("not")) return parse_compare();
  Nesting nesting(*this);
  ExprPtr expr = make(ExprKind::kNot, next().line);
  expr->children.push_back(parse_not());
  return finish(std::move(expr));
}

ExprPtr ExpressionParser::parse_compare() {
  static constexpr std::pair<const char*, CompareOperator> kOperators[] = {
      {"==", CompareOperator::kEqual},     {"!=", CompareOperator::kNotEqual}, {"<", CompareOperator::kLess},
      {"<=", CompareOperator::kLessEqual}, {">", CompareOperator::kGreater},   {">=", CompareOperator::kGreaterEqual}};
  ExprPtr expr = make(ExprKind::kCompare, current().line);
  expr->children.push_back(parse_sum());
  while (true) {
    auto op =
        std::find_if(std::begin(kOperators), std::end(kOperators), [&](const auto& o) { return is_operator(o.first); });
    if (op != std::end(kOperators)) {
      next();
      expr->compare.push_back(op->second);
    } else if (skip_name("in")) {
      expr->compare.push_back(CompareOperator::kIn);
    } else if (is_name("not") && look().kind == TokenKind::kName && look().text == "in") {
      next();
      next();
      expr->compare.push_back(CompareOperator::kNotIn);
    } else {
      break;
    }
    expr->children.push_back(parse_sum());
  }
  if (expr->compare.empty()) return std::move(expr->children[0]);
  return finish(std::move(expr));
}

ExprPtr ExpressionParser::parse_sum() {
  int line = current().line;
  ExprPtr left = parse_concat();
  while (is_operator("+") || is_operator("-")) {
    BinaryOperator op = next().text == "+" ? BinaryOperator::kAdd : BinaryOperator::kSubtract;
    left = binary(op, std::move(left), parse_concat(), line);
    line = current().line;
  }
  return left;
}

ExprPtr ExpressionParser::parse_concat() {
  ExprPtr expr = make(ExprKind::kConcat, current().line);
  expr->children.push_back(parse_product());
  while (skip_operator("~")) expr->children.push_back(parse_product());
  if (expr->children.size() == 1) return std::move(expr->children[0]);
  return finish(std::move(expr));
}

ExprPtr ExpressionParser::parse_product() {
  int line = current().line;
  ExprPtr left = parse_power();
  while (is_operator("*") || is_operator("/") || is_operator("//") || is_operator("%")) {
    BinaryOperator op = is_operator("*")    ? BinaryOperator::kMultiply
                        : is_operator("/")  ? BinaryOperator::kDivide
                        : is_operator("//") ? BinaryOperator::kFloorDivide
                                            : BinaryOperator::kModulo;
    next();
    left = binary(op, std::move(left), parse_power(), line);
    line = current().line;
  }
  return left;
}

ExprPtr ExpressionParser::parse_power() {
  int line = current().line;
  ExprPtr left = parse_unary();
  while (skip_operator("**")) {
    left = binary(BinaryOperator::kPower, std::move(left), parse_unary(), line);
    line = current().line;
  }
  return left;
}

ExprPtr ExpressionParser::parse_unary(bool with_filter) {
  Nesting nesting(*this);
  ExprPtr value;
  if (is_operator("-") || is_operator("+")) {
    ExprKind kind = is_operator("-") ? ExprKind::kNegate : ExprKind::kPositive;
    value = make(kind, next().line);
    value->children.push_back(parse_unary(false));
    value = finish(std::move(value));
  } else {
    value = parse_primary();
  }
  value = parse_postfix(std::move(value));
  return with_filter ? parse_filters_and_tests(std::move(value)) : std::move(value);
}

ExprPtr ExpressionParser::parse_primary(bool namespaces) {
  const Token token = current();
  ExprPtr expr = make(ExprKind::kConstant, token.line);
  switch (token.kind) {
    case TokenKind::kName:
      next();
      if (token.text == "true" || token.text == "True" || token.text == "false" || token.text == "False") {
        expr->constant = Value::boolean(token.text[0] == 't' || token.text[0] == 'T');
      } else if (token.text == "none" || token.text == "None") {
        expr->constant = Value::none();
      } else if (namespaces && is_operator(".")) {
        next();
        expr->kind = ExprKind::kNamespaceRef;
        expr->name = token.text;
        expr->constant = constant_string(expect(TokenKind::kName, "name").text);
      } else {
        expr->kind = ExprKind::kName;
        expr->name = token.text;
      }
      return expr;
    case TokenKind::kString: {
      std::string text;
      while (is(TokenKind::kString)) text += next().text;
      expr->constant = constant_string(text);
      return expr;
    }
    case TokenKind::kInteger:
    case TokenKind::kFloat:
      expr->constant = next().number;
      return expr;
    default:
      break;
  }
  if (is_operator("(")) {
    next();
    expr = parse_tuple({.parentheses = true});
    expect_operator(")");
    return expr;
  }
  if (is_operator("[")) return parse_list();
  if (is_operator("{")) return parse_dict();
  error(fmt::format("unexpected '{}'", describe(token)));
}

ExprPtr ExpressionParser::parse_list() {
  ExprPtr list = make(ExprKind::kList, next().line);
  while (!is_operator("]")) {
    if (!list->children.empty()) expect_operator(",");
    if (is_operator("]")) break;
    list->children.push_back(parse_expression());
  }
  next();
  return finish(std::move(list));
}

ExprPtr ExpressionParser::parse_dict() {
  ExprPtr dict = make(ExprKind::kDict, next().line);
  while (!is_operator("}")) {
    if (!dict->children.empty()) expect_operator(",");
    if (is_operator("}")) break;
    dict->children.push_back(parse_expression());
    expect_operator(":");
    dict->children.push_back(parse_expression());
  }
  next();
  return finish(std::move(dict));
}

ExprPtr ExpressionParser::parse_postfix(ExprPtr value) {
  while (true) {
    if (is_operator(".") || is_operator("[")) {
      value = parse_subscript(std::move(value));
    } else if (is_operator("(")) {
      value = parse_call(std::move(value));
    } else {
      return value;
    }
  }
}

ExprPtr ExpressionParser::parse_filters_and_tests(ExprPtr value) {
  while (true) {
    if (is_operator("|")) {
      value = parse_filter(std::move(value), false);
    } else if (is_name("is")) {
      value = parse_test(std::move(value));
    } else if (is_operator("(")) {
      value = parse_call(std::move(value));
    } else {
      return value;
    }
  }
}

ExprPtr ExpressionParser::parse_subscript(ExprPtr object) {
  Token token = next();
  if (token.text == ".") {
    Token attribute = next();
    ExprPtr expr = make(attribute.kind == TokenKind::kName ? ExprKind::kAttribute : ExprKind::kItem, token.line);
    expr->children.push_back(std::move(object));
    if (attribute.kind == TokenKind::kName) {
      expr->name = attribute.text;
    } else if (attribute.kind == TokenKind::kInteger) {
      expr->children.push_back(make(ExprKind::kConstant, attribute.line));
      expr->children[1]->constant = attribute.number;
    } else {
      error("expected name or number", attribute.line);
    }
    return finish(std::move(expr));
  }
  std::vector<ExprPtr> keys;
  while (!is_operator("]")) {
    if (!keys.empty()) expect_operator(",");
    keys.push_back(parse_subscribed());
  }
  next();
  auto is_slice = [](const ExprPtr& key) { return key->kind == ExprKind::kSlice && key->children[0] == nullptr; };
  if (keys.size() == 1 && is_slice(keys[0])) {
    keys[0]->children[0] = std::move(object);
    return finish(std::move(keys[0]));
  }
  if (std::any_of(keys.begin(), keys.end(), is_slice)) error("a slice cannot be one of several subscripts", token.line);
  ExprPtr expr = make(ExprKind::kItem, token.line);
  expr->children.push_back(std::move(object));
  if (keys.size() == 1) {
    expr->children.push_back(std::move(keys[0]));
  } else {
    ExprPtr tuple = make(ExprKind::kTuple, token.line);
    tuple->children = std::move(keys);
    expr->children.push_back(finish(std::move(tuple)));
  }
  return finish(std::move(expr));
}

// A key, or a slice that has no object yet.
ExprPtr ExpressionParser::parse_subscribed() {
  ExprPtr slice = make(ExprKind::kSlice, current().line);
  slice->children.resize(4);
  if (!is_operator(":")) {
    slice->children[1] = parse_expression();
    if (!is_operator(":")) return std::move(slice->children[1]);
  }
  next();
  auto at_end = [&] { return is_operator("]") || is_operator(","); };
  if (!is_operator(":") && !at_end()) slice->children[2] = parse_expression();
  if (skip_operator(":") && !at_end()) slice->children[3] = parse_expression();
  return slice;
}

void ExpressionParser::parse_arguments(Expr* call) {
  int line = current().line;
  expect_operator("(");
  auto ensure = [&](bool valid) {
    if (!valid) error("invalid syntax for function call expression", line);
  };
  bool first = true;
  bool positional_ended = false;
  while (!is_operator(")")) {
    if (!first) {
      expect_operator(",");
      if (is_operator(")")) break;
    }
    first = false;
    if (skip_operator("*")) {
      ensure(call->more_positional == nullptr && call->more_named == nullptr);
      call->more_positional = parse_expression();
    } else if (skip_operator("**")) {
      ensure(call->more_named == nullptr);
      call->more_named = parse_expression();
    } else if (is(TokenKind::kName) && look().kind == TokenKind::kOperator && look().text == "=") {
      ensure(call->more_named == nullptr);
      std::string key = next().text;
      next();
      for (const auto& [name, value] : call->named) {
        if (name == key) error(fmt::format("keyword argument repeated: {}", key));
      }
      call->named.emplace_back(key, parse_expression());
      positional_ended = true;
    } else {
      ensure(call->more_positional == nullptr && call->more_named == nullptr && !positional_ended);
      call->children.push_back(parse_expression());
    }
  }
  expect_operator(")");
}

ExprPtr ExpressionParser::parse_call(ExprPtr callee) {
  ExprPtr call = make(ExprKind::kCall, current().line);
  call->children.push_back(std::move(callee));
  parse_arguments(call.get());
  return finish(std::move(call));
}

ExprPtr ExpressionParser::parse_filter(ExprPtr value, bool inline_start) {
  while (is_operator("|") || inline_start) {
    if (!inline_start) next();
    inline_start = false;
    Token token = expect(TokenKind::kName, "name");
    ExprPtr filter = make(ExprKind::kFilter, token.line);
    filter->name = token.text;
    while (skip_operator(".")) filter->name.append(".").append(expect(TokenKind::kName, "name").text);
    filter->children.push_back(std::move(value));
    if (is_operator("(")) parse_arguments(filter.get());
    value = finish(std::move(filter));
  }
  return value;
}

ExprPtr ExpressionParser::parse_test(ExprPtr value) {
  int line = next().line;
  bool negated = skip_name("not");
  ExprPtr test = make(ExprKind::kTest, line);
  test->name = expect(TokenKind::kName, "name").text;
  while (skip_operator(".")) test->name.append(".").append(expect(TokenKind::kName, "name").text);
  test->children.push_back(std::move(value));
  bool starts_value = is(TokenKind::kName) || is(TokenKind::kString) || is(TokenKind::kInteger) ||
                      is(TokenKind::kFloat) || is_operator("[") || is_operator("{");
  if (is_operator("(")) {
    parse_arguments(test.get());
  } else if (starts_value && !is_name("else") && !is_name("or") && !is_name("and")) {
    if (is_name("is")) error("You cannot chain multiple tests with is");
    test->children.push_back(parse_postfix(parse_primary()));
  }
  test = finish(std::move(test));
  if (!negated) return test;
  ExprPtr inverse = make(ExprKind::kNot, line);
  inverse->children.push_back(std::move(test));
  return finish(std::move(inverse));
}

}  // namespace tessera::jinja
