// A Jinja engine for chat templates: the language of Python's jinja2 3.1 as the transformers library sets it up
// (immutable sandbox, trim_blocks, lstrip_blocks, loop controls, {% generation %}, its own tojson, raise_exception,
// strftime_now), byte for byte. Blocks, inheritance, imports and autoescape are refused: a chat template is one file.
// Sources and variables may be hostile: steps, memory, output and nesting are bounded.
#pragma once

#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/json.h"
#include "text/jinja_text.h"

namespace tessera::jinja {

struct RenderOptions {
  std::optional<std::tm> now;  // what strftime_now sees (date and time fields; the rest is derived); default: the clock
  int64_t max_steps = 50'000'000;  // expressions, items, pieces of text: 20 to 100 ns each
  int64_t max_output_bytes = int64_t{64} << 20;
  int64_t max_memory_bytes = int64_t{256} << 20;  // all values that one render makes
  int max_depth = 1000;                           // nested expressions, statements, calls and values
  // {key, value}: text of the variables that counts as the template's own, wherever that key is found.
  std::vector<std::pair<std::string, std::string>> trusted_values;
};

// A variable of a template. Text of `own` ones (bos_token, ...) counts as the template's; the rest is marked
// kFromInput.
struct Variable {
  std::string_view name;
  const OrderedJson* value;
  bool own = false;
};

struct Program;

// Immutable and thread-safe; copies share the program.
class Template {
 public:
  // `name` appears in messages. Throws kCorrupt with the line of a syntax error; kUnsupported for refused features.
  static Template parse(std::string_view source, const std::string& name);

  // Later variables win over earlier ones of the same name. Throws kInvalidArgument, with name and line, for whatever
  // jinja2 raises while rendering (raise_exception, undefined attributes, wrong types) and for a passed limit.
  Text render(const std::vector<Variable>& variables, const RenderOptions& options = {}) const;
  // `variables`: an object, one variable per key.
  std::string render(const OrderedJson& variables, const RenderOptions& options = {}) const;

 private:
  explicit Template(std::shared_ptr<const Program> program) : program_(std::move(program)) {}
  std::shared_ptr<const Program> program_;
};

}  // namespace tessera::jinja
