#include "text/jinja_property.h"

#include "core/error.h"
#include "text/jinja.h"
#include "text/utf8.h"

namespace tessera {

namespace {

constexpr int64_t kMaxOutput = 1 << 20;

const OrderedJson& variables() {
  static const OrderedJson kVariables = OrderedJson::parse(R"({
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Gr\u00fc\u00dfe <|end|>\n"},
                 {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": {"a": [1, 2.5, "x"]}}}]}],
    "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object",
               "properties": {"a": {"type": "array", "items": {"type": "string", "enum": ["q", "\"r\""]}}}, "required": ["a"]}}}],
    "add_generation_prompt": true, "s": "Hello, World", "n": 7, "f": 2.5, "l": [3, 1, 2], "d": {"b": 1, "a": [true, null]}, "big": 18446744073709551615})");
  return kVariables;
}

jinja::RenderOptions limits() {
  jinja::RenderOptions options;
  options.now = std::tm{};
  options.now->tm_year = 125;
  options.now->tm_mday = 1;
  options.max_steps = 100000;
  options.max_output_bytes = kMaxOutput;
  options.max_memory_bytes = 16 << 20;
  options.trusted_values = {{"role", "user"}};
  return options;
}

struct Outcome {
  std::string text;
  std::string error;
};

std::string render(std::string_view source, Outcome* outcome) {
  try {
    static const OrderedJson kToken = "<s>";
    std::vector<jinja::Variable> all = {{"bos_token", &kToken, true}};
    for (const auto& item : variables().items()) all.push_back({item.key(), &item.value()});
    jinja::Text text = jinja::Template::parse(source, "t").render(all, limits());
    size_t covered = 0;
    for (const jinja::Text::Run& run : text.runs()) {
      if (run.end <= covered) return "marks: an empty run";
      covered = run.end;
    }
    if (covered != text.size()) return "marks: runs do not cover the text";
    if (text.size() > kMaxOutput) return "the output is longer than its limit";
    if (!utf8_is_valid(text.bytes())) return "the output is not valid UTF-8";
    outcome->text = text.bytes();
    return "";
  } catch (const Error& e) {
    bool expected = e.code() == ErrorCode::kInvalidArgument || e.code() == ErrorCode::kCorrupt ||
                    e.code() == ErrorCode::kUnsupported;
    if (!expected) return fmt::format("error code {} for: {}", static_cast<int>(e.code()), e.what());
    if (std::string_view(e.what()).substr(0, 2) != "t:")
      return fmt::format("an error without template and line: {}", e.what());
    outcome->error = e.what();
    return "";
  }
}

}  // namespace

std::string check_template(std::string_view source) {
  Outcome first, second;
  if (std::string problem = render(source, &first); !problem.empty()) return problem;
  if (std::string problem = render(source, &second); !problem.empty()) return problem;
  if (first.text != second.text) return "two renders differ";
  if (first.error != second.error) return fmt::format("two errors differ: {} | {}", first.error, second.error);
  return "";
}

}  // namespace tessera
