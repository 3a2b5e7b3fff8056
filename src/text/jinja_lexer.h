// Splits a template into tokens under jinja2's rules for trim_blocks, lstrip_blocks and the signs of `{%-` and `{%+`.
// Linear time. Throws kCorrupt with name and line.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/jinja_value.h"

namespace tessera::jinja {

enum class TokenKind : uint8_t {
  kData,           // text between tags
  kBlockBegin,     // {%
  kBlockEnd,       // %}
  kVariableBegin,  // {{
  kVariableEnd,    // }}
  kName,
  kString,   // text: unescaped
  kInteger,  // number
  kFloat,    // number
  kOperator,
  kEnd,
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  int line = 1;
  std::string text;
  Value number;
};

// `source` may end in one newline, which is dropped; \r\n and \r become \n. The last token is kEnd.
std::vector<Token> tokenize(std::string_view source, const std::string& name);

[[noreturn]] void syntax_error(const std::string& name, int line, const std::string& what);
std::string describe(const Token& token);

}  // namespace tessera::jinja
