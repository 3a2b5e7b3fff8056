// Harmony rendering: messages to pieces, each either a special token or plain text, and pieces to ids. Text is never
// scanned for special tokens, so a user who writes "<|start|>" cannot open a message. Token for token what the
// openai-harmony library (0.0.8) renders; tools/compare_harmony.py checks that. Thread-safe.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/harmony_types.h"

namespace tessera {

struct HarmonyPiece {
  std::optional<HarmonySpecial> special;
  std::string text;  // where special is not set
  bool operator==(const HarmonyPiece&) const = default;
};

// Which messages of the analysis channel (reasoning) are left out.
enum class HarmonyDrop {
  kNone,
  // The library's auto_drop_analysis: when the conversation's last assistant message is final, all analysis before the
  // conversation's first final message.
  kBeforeFirstFinal,
  // The chat template's rule: all analysis that a final message follows. For training, the analysis just before the
  // last message stays.
  kFinished,
};

struct HarmonyRenderOptions {
  HarmonyDrop drop = HarmonyDrop::kBeforeFirstFinal;
  // `assistant<|channel|>commentary to=f`, as models write it, not the library's `assistant to=f<|channel|>commentary`.
  bool recipient_in_channel = false;
};

// The conversation alone; with `<|start|>ROLE` of the next message; with <|return|> ending a last final message.
// Throw kInvalidArgument for a tool message without a name, a system content outside a system message (a developer's
// likewise), and a schema that nests too deep.
std::vector<HarmonyPiece> render_harmony(const std::vector<HarmonyMessage>& messages,
                                         const HarmonyRenderOptions& options = {});
std::vector<HarmonyPiece> render_harmony_for_completion(const std::vector<HarmonyMessage>& messages,
                                                        HarmonyRole next = HarmonyRole::kAssistant,
                                                        const HarmonyRenderOptions& options = {});
std::vector<HarmonyPiece> render_harmony_for_training(const std::vector<HarmonyMessage>& messages,
                                                      const HarmonyRenderOptions& options = {});
// One message. `has_function_tools`: the system message tells the channel for function calls.
std::vector<HarmonyPiece> render_harmony_message(const HarmonyMessage& message, bool has_function_tools = false,
                                                 const HarmonyRenderOptions& options = {});

// For people: the special tokens spelled out. Not safe to tokenise, since text may spell one too.
std::string harmony_text(const std::vector<HarmonyPiece>& pieces);

// `encode` must take text as plain text. Each piece is encoded alone, as the library does.
using PlainEncode = std::function<std::vector<int32_t>(std::string_view)>;
std::vector<int32_t> harmony_ids(const std::vector<HarmonyPiece>& pieces, const HarmonyTokens& tokens,
                                 const PlainEncode& encode);

// The "# Tools" section of a system or developer message, and a JSON schema as a TypeScript type. Throw
// kInvalidArgument when a schema nests deeper than kMaxJsonDepth.
std::string harmony_tools_section(const std::vector<HarmonyNamespace>& namespaces);
std::string harmony_typescript(const OrderedJson& schema);

}  // namespace tessera
