#include "text/jinja.h"

#include "text/jinja_interpreter.h"
#include "text/jinja_parser.h"

namespace tessera::jinja {

Template Template::parse(std::string_view source, const std::string& name) {
  return Template(parse_program(source, name));
}

Text Template::render(const std::vector<Variable>& variables, const RenderOptions& options) const {
  return Interpreter(*program_, options).run(variables);
}

std::string Template::render(const OrderedJson& variables, const RenderOptions& options) const {
  std::vector<Variable> list;
  for (const auto& item : variables.items()) list.push_back({item.key(), &item.value()});
  return render(list, options).bytes();
}

}  // namespace tessera::jinja
