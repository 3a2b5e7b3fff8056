// Answers questions about the harmony code, one JSON object a line on stdin, one on stdout: the C++ side of
// tools/compare_harmony.py. An error of the library is an answer {"error": ...}.
#include <iostream>
#include <map>

#include "core/error.h"
#include "text/harmony.h"
#include "text/harmony_chat.h"
#include "text/harmony_json.h"
#include "text/harmony_parse.h"

namespace tessera {
namespace {

// The ids of the o200k_harmony tokenizer.
HarmonyTokens o200k_tokens() {
  static const std::map<std::string_view, int32_t> kIds = {
      {"<|endoftext|>", 199999}, {"<|return|>", 200002}, {"<|constrain|>", 200003}, {"<|channel|>", 200005},
      {"<|start|>", 200006},     {"<|end|>", 200007},    {"<|message|>", 200008},   {"<|call|>", 200012}};
  return HarmonyTokens::from([](std::string_view name) -> std::optional<int32_t> {
    const auto it = kIds.find(name);
    return it == kIds.end() ? std::nullopt : std::optional(it->second);
  });
}

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  }
  return bytes;
}

OrderedJson pieces_json(const std::vector<HarmonyPiece>& pieces) {
  OrderedJson out = OrderedJson::array();
  for (const HarmonyPiece& piece : pieces) {
    OrderedJson pair = OrderedJson::array();
    pair.push_back(piece.special ? "special" : "text");
    pair.push_back(piece.special ? std::string(harmony_special_text(*piece.special)) : piece.text);
    out.push_back(std::move(pair));
  }
  return out;
}

HarmonyRenderOptions options_of(const OrderedJson& ask) {
  HarmonyRenderOptions options;
  const std::string drop = ask.value("drop", "library");
  options.drop = drop == "none"       ? HarmonyDrop::kNone
                 : drop == "finished" ? HarmonyDrop::kFinished
                                      : HarmonyDrop::kBeforeFirstFinal;
  options.recipient_in_channel = ask.value("recipient_in_channel", false);
  return options;
}

OrderedJson render(const OrderedJson& ask, const std::vector<HarmonyMessage>& messages) {
  const std::string mode = ask.value("mode", "conversation");
  const HarmonyRenderOptions options = options_of(ask);
  if (mode == "conversation") return pieces_json(render_harmony(messages, options));
  if (mode == "training") return pieces_json(render_harmony_for_training(messages, options));
  if (mode == "message") {
    return pieces_json(render_harmony_message(messages.at(0), ask.value("has_function_tools", false), options));
  }
  const std::optional<HarmonyRole> next = harmony_role(ask.value("next", "assistant"));
  return pieces_json(render_harmony_for_completion(messages, next.value_or(HarmonyRole::kAssistant), options));
}

OrderedJson parse(const OrderedJson& ask) {
  std::optional<HarmonyRole> role;
  if (ask.contains("role") && ask["role"].is_string()) role = harmony_role(ask["role"].get<std::string>());
  HarmonyParser parser(o200k_tokens(), role);
  std::string streamed;
  const auto gather = [&](const std::vector<HarmonyEvent>& events) {
    for (const HarmonyEvent& event : events) streamed += event.delta;
  };
  for (const OrderedJson& token : ask["tokens"]) {
    gather(parser.push(token[0].get<int32_t>(), from_hex(token[1].get<std::string>())));
  }
  gather(parser.finish());
  OrderedJson messages = OrderedJson::array();
  static constexpr const char* kEnds[] = {"open", "end", "return", "call", "cut"};
  for (const HarmonyParsed& parsed : parser.messages()) {
    OrderedJson json = harmony_to_json(parsed.message);
    json["end"] = kEnds[static_cast<int>(parsed.end)];
    json["bare"] = parsed.bare;
    messages.push_back(std::move(json));
  }
  return {{"messages", messages}, {"streamed", streamed}};
}

OrderedJson answer(const OrderedJson& ask) {
  const std::string op = ask.value("op", "");
  if (op == "render") return {{"pieces", render(ask, harmony_messages_from_json(ask["messages"]))}};
  if (op == "parse") return parse(ask);
  if (op == "chat") {
    HarmonyChatOptions options;
    if (ask.contains("current_date")) options.system.current_date = ask["current_date"].get<std::string>();
    options.system.effort = harmony_effort(ask.value("effort", "medium"));
    return {{"pieces", render(ask, harmony_from_chat(ask["messages"], ask.value("tools", OrderedJson()), options))}};
  }
  fail(ErrorCode::kInvalidArgument, "op: found \"{}\", expected render, parse or chat", op);
}

}  // namespace
}  // namespace tessera

int main() {
  std::ios::sync_with_stdio(false);
  std::string line;
  while (std::getline(std::cin, line)) {
    tessera::OrderedJson reply;
    try {
      reply = tessera::answer(tessera::OrderedJson::parse(line));
    } catch (const std::exception& error) {
      reply = {{"error", error.what()}};
    }
    std::cout << reply.dump() << '\n';
  }
}
