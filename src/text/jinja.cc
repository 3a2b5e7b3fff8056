#include "text/jinja.h"

#include "text/jinja_interpreter.h"
#include "text/jinja_parser.h"

namespace tessera::jinja {

Template Template::parse(std::string_view source, const std::string& name) {
  return Template(parse_program(source, name));
}

Text Template::render(const OrderedJson& variables, const OrderedJson& own_variables, const RenderOptions& options) const {
  return Interpreter(*program_, options).run(variables, own_variables);
}

std::string Template::render(const OrderedJson& variables, const RenderOptions& options) const {
  return render(variables, OrderedJson::object(), options).bytes();
}

}  // namespace tessera::jinja
