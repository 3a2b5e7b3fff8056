// Prompts of conversations: OpenAI's messages and tools to what the model is given. Immutable and thread-safe.
//
// The checkpoint's chat template decides the text. A harmony model's template is taken for its system message only: the
// rest is rendered by harmony's own rules (text/harmony_chat.h), which keep several tool calls of one turn and text
// beside them, and write calls as the model wrote them, so that the prefix cache finds them again. Reasoning stays
// between tool calls and is dropped once a final answer has followed.
#pragma once

#include <ctime>
#include <optional>
#include <string>
#include <vector>

#include "core/json.h"
#include "text/chat_template.h"
#include "text/harmony_types.h"
#include "text/tokenizer.h"

namespace tessera {

// What one conversation adds to the template.
struct ConversationInput {
  OrderedJson messages;          // array of {role, content, reasoning_content?, tool_calls?, tool_call_id?, name?}
  OrderedJson tools;             // array of {type: function, function: {...}}; null: none
  std::string reasoning_effort;  // empty: the template's own
  OrderedJson template_kwargs = OrderedJson::object();
  std::optional<std::time_t> now;
};

class ChatPrompt {
 public:
  // Throws as ChatTemplate::from_folder. The tokenizer must outlive this object.
  ChatPrompt(const std::string& folder, const Tokenizer& tokenizer);

  // The prompt for the next answer. Throws kInvalidArgument when messages have a wrong shape or the template refuses
  // them.
  std::vector<int32_t> ids(const ConversationInput& input) const;
  bool harmony() const { return tokens_.has_value(); }

  // By the template alone.
  std::vector<ChatSegment> segments(const ConversationInput& input) const;
  std::vector<int32_t> segment_ids(const std::vector<ChatSegment>& segments) const;

 private:
  std::vector<int32_t> harmony_prompt(const ConversationInput& input) const;

  const Tokenizer& tokenizer_;
  ChatTemplate template_;
  std::optional<HarmonyTokens> tokens_;  // of a harmony model
};

// The special tokens of a harmony model's tokenizer; nullopt for others.
std::optional<HarmonyTokens> harmony_tokens_of(const Tokenizer& tokenizer);

}  // namespace tessera
