// Sorts what a chat model emits into reasoning, answer and tool calls, while it streams. Total: any token sequence
// gives a well-formed Reply. Not thread-safe.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tessera/chat.h"
#include "text/tokenizer.h"

namespace tessera {

// A part of one message. A tool call begins with a piece that has its name and no text.
struct ReplyPiece {
  ReplyPart part = ReplyPart::kAnswer;
  std::string_view text;
  int64_t message = 0;    // pieces with the same number belong to one message; numbers grow
  std::string_view name;  // of the function, in all pieces of a tool call
};

class ReplyParser {
 public:
  using Emit = std::function<void(const ReplyPiece& piece)>;

  virtual ~ReplyParser() = default;
  virtual void push(int32_t id, const Emit& emit) = 0;
  virtual void finish(const Emit& emit) = 0;
  // What the last token pushed belongs to; nullopt for headers, special tokens and tags.
  virtual std::optional<ReplyPart> part() const = 0;

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

// What stands between two messages of one part where they are shown as one text.
inline constexpr std::string_view kMessageBreak = "\n\n";

// "call_" and the number of the call in the conversation.
std::string tool_call_id(int64_t number);

}  // namespace tessera
