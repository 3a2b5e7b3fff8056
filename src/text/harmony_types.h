// What a harmony conversation is made of: the format that gpt-oss models read and write.
//
//   <|start|>ROLE[:NAME][ to=RECIPIENT][<|channel|>CHANNEL][ CONTENT_TYPE]<|message|>CONTENT<|end|>
//
// Values only; rendering is in harmony.h, parsing in harmony_parse.h, OpenAI's JSON in harmony_chat.h.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/json.h"

namespace tessera {

enum class HarmonyRole : uint8_t { kSystem, kDeveloper, kUser, kAssistant, kTool };
std::string_view harmony_role_name(HarmonyRole role);
std::optional<HarmonyRole> harmony_role(std::string_view name);

enum class HarmonyEffort : uint8_t { kLow, kMedium, kHigh };
std::string_view harmony_effort_name(HarmonyEffort effort);  // low, medium, high
std::optional<HarmonyEffort> harmony_effort(std::string_view name);

struct HarmonyAuthor {
  HarmonyRole role = HarmonyRole::kUser;
  std::string name;  // a tool's full name (functions.get_weather), or a user's; empty: none
  bool operator==(const HarmonyAuthor&) const = default;
};

struct HarmonyTool {
  std::string name;
  std::string description;
  OrderedJson parameters;  // JSON schema in the author's key order; null: takes nothing
};

struct HarmonyNamespace {
  std::string name;  // functions, browser, python, ...
  std::string description;
  std::vector<HarmonyTool> tools;  // empty: the description is all
};

// The built-in tools that gpt-oss was trained with.
HarmonyNamespace harmony_browser();
HarmonyNamespace harmony_python();

struct HarmonySystem {
  std::optional<std::string> model_identity = "You are ChatGPT, a large language model trained by OpenAI.";
  std::optional<std::string> knowledge_cutoff = "2024-06";
  std::optional<std::string> current_date;  // YYYY-MM-DD
  std::optional<HarmonyEffort> effort = HarmonyEffort::kMedium;
  std::vector<std::string> channels = {"analysis", "commentary", "final"};  // empty: the line is left out
  bool channel_required = true;
  std::vector<HarmonyNamespace> tools;  // rendered in the order of their names
};

struct HarmonyDeveloper {
  std::optional<std::string> instructions;
  std::vector<HarmonyNamespace> tools;
};

using HarmonyContent = std::variant<std::string, HarmonySystem, HarmonyDeveloper>;

struct HarmonyMessage {
  HarmonyAuthor author;
  std::string recipient;     // empty: none
  std::string channel;       // analysis, commentary, final; empty: none
  std::string content_type;  // json, code, ...; empty: none
  bool constrained = false;  // the content type is written after <|constrain|>
  std::vector<HarmonyContent> content;

  std::string text() const;  // the plain texts among the contents, joined
};

HarmonyMessage harmony_text_message(HarmonyRole role, std::string text, std::string channel = {});

enum class HarmonySpecial : uint8_t { kStart, kEnd, kMessage, kChannel, kConstrain, kReturn, kCall };
inline constexpr int kHarmonySpecials = 7;
std::string_view harmony_special_text(HarmonySpecial special);  // <|start|>, ...

// The ids of a tokenizer for harmony's special tokens, so that text that merely spells one is never taken for it.
struct HarmonyTokens {
  int32_t ids[kHarmonySpecials] = {-1, -1, -1, -1, -1, -1, -1};  // by HarmonySpecial
  std::vector<int32_t> eos;  // other ids that end a message when the model emits them: <|endoftext|>

  int32_t id(HarmonySpecial special) const { return ids[static_cast<int>(special)]; }
  std::optional<HarmonySpecial> find(int32_t token) const;
  // Looks the seven names up, and <|endoftext|> for `eos`. Throws kUnsupported naming a token that is missing.
  static HarmonyTokens from(const std::function<std::optional<int32_t>(std::string_view)>& id_of);
};

}  // namespace tessera
