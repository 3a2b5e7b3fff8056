// Sorts what a chat model emits into reasoning, answer and tool calls, while it streams. Total: any token sequence
// gives a well-formed Reply. Not thread-safe.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tessera/chat.h"
#include "text/tokenizer.h"

namespace tessera {

class ReplyParser {
 public:
  using Emit = std::function<void(ReplyPart part, std::string_view piece)>;

  virtual ~ReplyParser() = default;
  virtual void push(int32_t id, const Emit& emit) = 0;
  virtual void finish(const Emit& emit) = 0;

  // Filled by finish().
  struct Parts {
    std::string reasoning, answer;
    std::vector<ToolCall> tool_calls;
    int64_t reasoning_tokens = 0;
  };
  const Parts& parts() const { return parts_; }

 protected:
  Parts parts_;
};

// Harmony channels where the tokenizer has harmony's special tokens; otherwise <think> and <tool_call> tags in the
// text. The tokenizer must outlive the parser.
std::unique_ptr<ReplyParser> make_reply_parser(const Tokenizer& tokenizer);

// "call_" and the number of the call in the conversation.
std::string tool_call_id(int64_t number);

}  // namespace tessera
