// Tokens to a program whose names are bound. Throws kCorrupt with name and line, kUnsupported for refused statements.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "text/jinja_ast.h"

namespace tessera::jinja {

std::shared_ptr<const Program> parse_program(std::string_view source, const std::string& name);

// Decides for every name which variable it is, by jinja2's rules (jinja_scope.cc).
void bind_names(Program* program);

}  // namespace tessera::jinja
