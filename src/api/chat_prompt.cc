#include "api/chat_prompt.h"

#include <algorithm>

#include "core/error.h"
#include "text/harmony.h"
#include "text/harmony_chat.h"

namespace tessera {

namespace {

// What templates read: reasoning under both names in use. A template that tests "arguments is string" takes them as the
// model wrote them; others expect an object.
OrderedJson for_template(const OrderedJson& messages, bool string_arguments) {
  OrderedJson out = messages;
  for (OrderedJson& m : out) {
    if (m["role"] != "assistant") continue;
    if (!m.contains("content") || m["content"].is_null()) m["content"] = "";
    if (m.contains("reasoning_content") && !m.contains("thinking")) m["thinking"] = m["reasoning_content"];
    if (string_arguments || !m.contains("tool_calls")) continue;
    for (OrderedJson& call : m["tool_calls"]) {
      OrderedJson& function = call["function"];
      if (!function.contains("arguments") || !function["arguments"].is_string()) continue;
      OrderedJson arguments = OrderedJson::parse(function["arguments"].get<std::string>(), nullptr, false);
      if (arguments.is_object()) function["arguments"] = std::move(arguments);
    }
  }
  return out;
}

}  // namespace

std::optional<HarmonyTokens> harmony_tokens_of(const Tokenizer& tokenizer) {
  auto id_of = [&](std::string_view name) { return tokenizer.token_to_id(name); };
  if (!id_of("<|channel|>") || !id_of("<|start|>") || !id_of("<|message|>")) return std::nullopt;
  return HarmonyTokens::from(id_of);
}

ChatPrompt::ChatPrompt(const std::string& folder, const Tokenizer& tokenizer)
    : tokenizer_(tokenizer), template_(ChatTemplate::from_folder(folder)), tokens_(harmony_tokens_of(tokenizer)) {}

std::vector<ChatSegment> ChatPrompt::segments(const ConversationInput& input) const {
  const bool string_arguments = template_.source().find("arguments is string") != std::string::npos;
  ChatTemplateOptions settings;
  settings.tools = input.tools;
  settings.add_generation_prompt = true;
  settings.now = input.now;
  settings.kwargs = input.template_kwargs;
  if (!input.reasoning_effort.empty()) settings.kwargs["reasoning_effort"] = input.reasoning_effort;
  return template_.apply_segments(for_template(input.messages, string_arguments), settings);
}

std::vector<int32_t> ChatPrompt::segment_ids(const std::vector<ChatSegment>& segments) const {
  std::string text;
  std::vector<TextRange> plain;  // users' text: a special token spelled there stays text
  for (const ChatSegment& segment : segments) {
    if (!segment.from_template) plain.push_back({text.size(), text.size() + segment.text.size()});
    text += segment.text;
  }
  return tokenizer_.encode(text, {.parse_special = true, .plain_ranges = plain});
}

std::vector<int32_t> ChatPrompt::ids(const ConversationInput& input) const {
  return tokens_ ? harmony_prompt(input) : segment_ids(segments(input));
}

std::vector<int32_t> ChatPrompt::harmony_prompt(const ConversationInput& input) const {
  ConversationInput opening = input;
  opening.messages = OrderedJson::array({{{"role", "user"}, {"content", ""}}});
  std::vector<int32_t> ids = segment_ids(segments(opening));
  const auto end = std::find(ids.begin(), ids.end(), tokens_->id(HarmonySpecial::kEnd));
  if (end == ids.end()) fail(ErrorCode::kUnsupported, "the chat template writes no system message");
  ids.erase(end + 1, ids.end());

  std::vector<HarmonyMessage> messages = harmony_from_chat(input.messages, input.tools, {.constrain_calls = true});
  messages.erase(messages.begin());  // the library's system message; the template's stands for it
  const std::vector<HarmonyPiece> pieces = render_harmony_for_completion(
      messages, HarmonyRole::kAssistant, {.drop = HarmonyDrop::kFinished, .recipient_in_channel = true});
  const std::vector<int32_t> rest = harmony_ids(
      pieces, *tokens_, [&](std::string_view text) { return tokenizer_.encode(text, {.parse_special = false}); });
  ids.insert(ids.end(), rest.begin(), rest.end());
  return ids;
}

}  // namespace tessera
