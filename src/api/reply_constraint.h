// What a chat reply must look like, as a constraint on tokens: the channels of harmony, or <think> and <tool_call> tags
// as Qwen3 writes; inside the answer a JSON schema, a regex or a grammar; inside tool calls the tool's own schema.
// Reasoning is free text. Every reply that a constraint lets end parses: answers match their format, arguments of tool
// calls their schema, names of tool calls are names of tools.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "core/json.h"
#include "engine/token_constraint.h"
#include "text/grammar.h"
#include "text/tokenizer.h"

namespace tessera {

enum class AnswerFormat : uint8_t { kText, kJsonObject, kJsonSchema, kRegex, kEbnf };
enum class ToolChoice : uint8_t { kNone, kAuto, kRequired, kNamed };

struct ReplyShape {
  AnswerFormat format = AnswerFormat::kText;
  OrderedJson schema;   // kJsonSchema
  std::string grammar;  // kRegex, kEbnf: the text
  OrderedJson tools;    // OpenAI's array of function tools (or of the inner objects); null: none
  ToolChoice choice = ToolChoice::kAuto;
  std::string tool_name;            // kNamed
  bool parallel_tool_calls = true;  // false: at most one call
  // What the request calls the format's text, and a tool's parameters within `tools[i].`; for errors.
  std::string format_field = "response_format.json_schema.schema";
  std::string parameters_field = "function.parameters";
};

// Makes constraints for one tokenizer and keeps the grammars it has compiled (the most recent ones). Thread-safe.
class ReplyConstraints {
 public:
  // V may be larger than the tokenizer's vocabulary: the rest is never allowed. eos_ids: what ends a reply. The
  // tokenizer must outlive this object; its constraints need neither. Takes about a tenth of a second at V = 201,088.
  ReplyConstraints(const Tokenizer& tokenizer, std::vector<int32_t> eos_ids, int64_t vocab_size);
  ~ReplyConstraints();

  // For a chat whose rendered prompt ends with `prompt_end` (its last few hundred bytes will do). Null: nothing is
  // restricted, because the shape is free text without tools. Clone the result for each sample.
  // Throws kInvalidArgument and kUnsupported, naming the place: `response_format.json_schema.schema.properties.age:
  // ...`, `tools[1].function.parameters: ...`, `tool_choice: ...`.
  std::shared_ptr<const TokenConstraint> chat(const ReplyShape& shape, std::string_view prompt_end);
  // For a plain completion: the whole text has the format. `shape.tools` is not looked at.
  std::shared_ptr<const TokenConstraint> completion(const ReplyShape& shape);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tessera
