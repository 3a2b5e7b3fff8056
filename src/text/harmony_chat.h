// OpenAI's chat JSON to harmony messages and back: what a server or a chat loop speaks. Thread-safe.
//
// harmony_from_chat + render_harmony_for_completion(drop = kFinished) gives the text of gpt-oss's chat template, with
// these differences, in which the openai-harmony library's way is taken:
//   instructions without tools   the template writes two newlines after them
//   tool results                 the template writes a string as JSON, in quotes; here as it is
//   a default value in a tool    the template puts the comma after the comment, the library before it
//   nested objects, unions       the template has its own layout (and "any" where they are large)
//   content beside tool_calls    the template calls it analysis; here it is a commentary (what the user may see)
//   several tool calls           the template writes the first one only
//   later system messages        the template drops them; here they are developer messages
//   a string of arguments        the template writes it as JSON, in quotes; here as it is
#pragma once

#include <vector>

#include "core/json.h"
#include "text/harmony_parse.h"
#include "text/harmony_types.h"

namespace tessera {

struct HarmonyChatOptions {
  HarmonySystem system;  // the system message
  bool constrain_calls =
      false;  // earlier calls have `<|constrain|>json`, as models write it, not the template's `json`
};

// messages: array of {role, content, name?, thinking | reasoning_content | reasoning?, tool_calls?, tool_call_id?}.
// tools: array of {type: function, function: {name, description, parameters}} (or the inner objects), or null.
// A first message of role system or developer becomes the instructions. Throws kInvalidArgument naming the message and
// the field.
std::vector<HarmonyMessage> harmony_from_chat(const OrderedJson& messages, const OrderedJson& tools,
                                              const HarmonyChatOptions& options);

// Where the content of a message that the model wrote belongs in a reply.
enum class HarmonyPart : uint8_t {
  kReasoning,  // analysis; commentary without <|message|>; anything to the assistant itself
  kAnswer,     // final, commentary to the user, and what has no channel
  kToolCall,   // anything to another recipient, except in the final channel
  kNone,       // not the assistant's
};
HarmonyPart harmony_part(const HarmonyParsed& parsed);
// "functions.get_weather" -> "get_weather"; the names of built-in tools stay whole (browser.search, python).
std::string harmony_call_name(const HarmonyMessage& message);

// One assistant message {role, content, reasoning_content?, tool_calls?} of all that the model wrote. Calls are
// numbered "call_0", ... from `first_call`; several reasonings or answers are joined by a newline. Content is null
// beside calls.
OrderedJson harmony_to_chat(const std::vector<HarmonyParsed>& messages, int64_t first_call = 0);

}  // namespace tessera
