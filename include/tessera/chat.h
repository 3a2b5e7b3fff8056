// A conversation with a model: renders the chat format, generates, parses channels and tool calls.
#pragma once

#include <string>
#include <vector>

#include "tessera/llm.h"

namespace tessera {

struct ChatOptions {
  std::string system;                       // instructions of the developer; empty: none
  std::string reasoning_effort = "medium";  // low, medium, high, where the format knows it
  std::string tools;                        // JSON array of OpenAI function tools; empty: none
  std::string current_date;                 // YYYY-MM-DD; empty: today
  std::string template_kwargs;              // JSON object of further variables of the chat template; empty: none
  SamplingParams sampling;
};

struct ToolCall {
  std::string id;
  std::string name;
  std::string arguments;  // JSON text as the model wrote it
};

struct Reply {
  std::string reasoning;  // the analysis channel, or <think> part
  std::string text;       // the final answer
  std::vector<ToolCall> tool_calls;
  Generation generation;
};

enum class ReplyPart { kReasoning, kAnswer, kToolCall };
// Pieces as they arrive; returns false to cancel.
using ReplyCallback = std::function<bool(ReplyPart part, std::string_view piece)>;

class Chat {
 public:
  // Defaults from the model's generation_config.json. The Llm must outlive the Chat.
  explicit Chat(Llm& llm);
  Chat(Llm& llm, ChatOptions options);

  // Adds a user message, answers it, and keeps both. A cancelled answer is kept as far as it got.
  Reply say(std::string_view user, const ReplyCallback& on_piece = {});
  // Adds the result of a tool call made in the last reply; answer with resume().
  void tool_result(const ToolCall& call, std::string_view result);
  Reply resume(const ReplyCallback& on_piece = {});

  void reset();  // forgets the messages, keeps the options
  ChatOptions& options();
  // Messages as a JSON array in OpenAI's shape (role, content, reasoning_content, tool_calls); set_messages throws
  // kInvalidArgument naming the first bad message.
  std::string messages_json() const;
  void set_messages(const std::string& json);
  // What the model would be given for the next answer.
  std::string prompt() const;
  std::vector<int32_t> prompt_ids() const;

  Chat(Chat&&) noexcept;
  Chat& operator=(Chat&&) noexcept;
  ~Chat();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tessera
