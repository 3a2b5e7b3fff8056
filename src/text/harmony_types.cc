#include "text/harmony_types.h"

#include <iterator>

#include "core/error.h"

namespace tessera {
namespace {

constexpr std::string_view kRoles[] = {"system", "developer", "user", "assistant", "tool"};
constexpr std::string_view kEfforts[] = {"low", "medium", "high"};
constexpr std::string_view kSpecials[] = {"<|start|>",     "<|end|>",    "<|message|>", "<|channel|>",
                                          "<|constrain|>", "<|return|>", "<|call|>"};
static_assert(std::size(kSpecials) == kHarmonySpecials);

template <class Enum, size_t N>
std::optional<Enum> find_name(const std::string_view (&names)[N], std::string_view name) {
  for (size_t i = 0; i < N; ++i) {
    if (names[i] == name) return static_cast<Enum>(i);
  }
  return std::nullopt;
}

}  // namespace

std::string_view harmony_role_name(HarmonyRole role) {
  return kRoles[static_cast<int>(role)];
}
std::optional<HarmonyRole> harmony_role(std::string_view name) {
  return find_name<HarmonyRole>(kRoles, name);
}
std::string_view harmony_effort_name(HarmonyEffort effort) {
  return kEfforts[static_cast<int>(effort)];
}
std::optional<HarmonyEffort> harmony_effort(std::string_view name) {
  return find_name<HarmonyEffort>(kEfforts, name);
}
std::string_view harmony_special_text(HarmonySpecial special) {
  return kSpecials[static_cast<int>(special)];
}

std::string HarmonyMessage::text() const {
  std::string all;
  for (const HarmonyContent& part : content) {
    if (const auto* text = std::get_if<std::string>(&part)) all += *text;
  }
  return all;
}

HarmonyMessage harmony_text_message(HarmonyRole role, std::string text, std::string channel) {
  HarmonyMessage message;
  message.author.role = role;
  message.channel = std::move(channel);
  message.content.emplace_back(std::move(text));
  return message;
}

std::optional<HarmonySpecial> HarmonyTokens::find(int32_t token) const {
  for (int i = 0; i < kHarmonySpecials; ++i) {
    if (ids[i] == token && token >= 0) return static_cast<HarmonySpecial>(i);
  }
  return std::nullopt;
}

HarmonyTokens HarmonyTokens::from(const std::function<std::optional<int32_t>(std::string_view)>& id_of) {
  HarmonyTokens tokens;
  for (int i = 0; i < kHarmonySpecials; ++i) {
    std::optional<int32_t> id = id_of(kSpecials[i]);
    if (!id) {
      fail(ErrorCode::kUnsupported, "the tokenizer has no {} token, so it cannot be used with the harmony chat format",
           kSpecials[i]);
    }
    tokens.ids[i] = *id;
  }
  if (std::optional<int32_t> id = id_of("<|endoftext|>")) tokens.eos.push_back(*id);
  return tokens;
}

}  // namespace tessera
