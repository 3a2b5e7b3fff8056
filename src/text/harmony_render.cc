#include <algorithm>

#include "core/error.h"
#include "text/harmony.h"

namespace tessera {
namespace {

using Pieces = std::vector<HarmonyPiece>;

void add(Pieces& pieces, HarmonySpecial special) {
  pieces.push_back({special, {}});
}
void add(Pieces& pieces, std::string text) {
  if (!text.empty()) pieces.push_back({std::nullopt, std::move(text)});
}

std::string join(const std::vector<std::string>& parts, std::string_view separator) {
  std::string all;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (i > 0) all += separator;
    all += parts[i];
  }
  return all;
}

std::string system_text(const HarmonySystem& system, bool has_function_tools) {
  std::vector<std::string> sections;
  std::vector<std::string> top;
  if (system.model_identity) top.push_back(*system.model_identity);
  if (system.knowledge_cutoff) top.push_back("Knowledge cutoff: " + *system.knowledge_cutoff);
  if (system.current_date) top.push_back("Current date: " + *system.current_date);
  if (!top.empty()) sections.push_back(join(top, "\n"));
  if (system.effort) sections.push_back("Reasoning: " + std::string(harmony_effort_name(*system.effort)));
  if (!system.tools.empty()) sections.push_back(harmony_tools_section(system.tools));
  if (!system.channels.empty()) {
    std::string line = "# Valid channels: " + join(system.channels, ", ") + ".";
    if (system.channel_required) line += " Channel must be included for every message.";
    if (has_function_tools) line += "\nCalls to these tools must go to the commentary channel: 'functions'.";
    sections.push_back(std::move(line));
  }
  return join(sections, "\n\n");
}

std::string developer_text(const HarmonyDeveloper& developer) {
  std::vector<std::string> sections;
  if (developer.instructions) sections.push_back("# Instructions\n\n" + *developer.instructions);
  if (!developer.tools.empty()) sections.push_back(harmony_tools_section(developer.tools));
  return join(sections, "\n\n");
}

void add_header(Pieces& pieces, const HarmonyMessage& message, const HarmonyRenderOptions& options) {
  const HarmonyAuthor& author = message.author;
  if (author.role == HarmonyRole::kTool) {
    if (author.name.empty()) {
      fail(ErrorCode::kInvalidArgument,
           "a harmony message of role tool has no name; give the full one, functions.NAME");
    }
    add(pieces, author.name);
  } else {
    add(pieces, std::string(harmony_role_name(author.role)));
    if (!author.name.empty()) add(pieces, ":" + author.name);
  }
  const bool addressed = !message.recipient.empty() && message.recipient != "all";
  const bool late = options.recipient_in_channel && author.role == HarmonyRole::kAssistant && !message.channel.empty();
  if (addressed && !late) add(pieces, " to=" + message.recipient);
  if (!message.channel.empty()) {
    add(pieces, HarmonySpecial::kChannel);
    add(pieces, message.channel);
  }
  if (addressed && late) add(pieces, " to=" + message.recipient);
  if (message.constrained) {
    add(pieces, " ");
    add(pieces, HarmonySpecial::kConstrain);
    add(pieces, message.content_type);
  } else if (!message.content_type.empty()) {
    add(pieces, " " + message.content_type);
  }
}

std::string content_text(const HarmonyContent& content, HarmonyRole role, bool has_function_tools) {
  if (const auto* system = std::get_if<HarmonySystem>(&content)) {
    if (role != HarmonyRole::kSystem) {
      fail(ErrorCode::kInvalidArgument, "a harmony message of role {} has a system content; use the system role",
           harmony_role_name(role));
    }
    return system_text(*system, has_function_tools);
  }
  if (const auto* developer = std::get_if<HarmonyDeveloper>(&content)) {
    if (role != HarmonyRole::kDeveloper) {
      fail(ErrorCode::kInvalidArgument, "a harmony message of role {} has a developer content; use the developer role",
           harmony_role_name(role));
    }
    return developer_text(*developer);
  }
  return std::get<std::string>(content);
}

void add_message(Pieces& pieces, const HarmonyMessage& message, bool has_function_tools,
                 const HarmonyRenderOptions& options) {
  add(pieces, HarmonySpecial::kStart);
  add_header(pieces, message, options);
  add(pieces, HarmonySpecial::kMessage);
  for (const HarmonyContent& content : message.content) {
    add(pieces, content_text(content, message.author.role, has_function_tools));
  }
  const bool call = message.author.role == HarmonyRole::kAssistant && !message.recipient.empty();
  add(pieces, call ? HarmonySpecial::kCall : HarmonySpecial::kEnd);
}

bool declares_functions(const HarmonyMessage& message) {
  for (const HarmonyContent& content : message.content) {
    const auto* developer = std::get_if<HarmonyDeveloper>(&content);
    if (developer == nullptr) continue;
    for (const HarmonyNamespace& space : developer->tools) {
      if (space.name == "functions" && !space.tools.empty()) return true;
    }
  }
  return false;
}

// Which messages to leave out; `training` keeps the reasoning of the last answer under kFinished.
std::vector<bool> dropped(const std::vector<HarmonyMessage>& messages, HarmonyDrop drop, bool training) {
  std::vector<bool> out(messages.size(), false);
  if (drop == HarmonyDrop::kBeforeFirstFinal) {
    const auto last = std::find_if(messages.rbegin(), messages.rend(),
                                   [](const HarmonyMessage& m) { return m.author.role == HarmonyRole::kAssistant; });
    if (last == messages.rend() || last->channel != "final") return out;
    for (size_t i = 0; i < messages.size() && messages[i].channel != "final"; ++i) {
      out[i] = messages[i].channel == "analysis";
    }
  } else if (drop == HarmonyDrop::kFinished) {
    bool finished = false;
    bool spared = training;  // still in the run of analysis just before the last message
    for (size_t i = messages.size(); i-- > 0;) {
      const HarmonyMessage& m = messages[i];
      const bool assistant = m.author.role == HarmonyRole::kAssistant;
      const bool analysis = assistant && m.channel == "analysis" && m.recipient.empty();
      if (analysis) {
        out[i] = finished && !spared;
      } else {
        spared = spared && i + 1 == messages.size();
        finished = finished || (assistant && m.channel == "final");
      }
    }
  }
  return out;
}

Pieces render(const std::vector<HarmonyMessage>& messages, const HarmonyRenderOptions& options, bool training) {
  const bool functions = std::any_of(messages.begin(), messages.end(), declares_functions);
  const std::vector<bool> drop = dropped(messages, options.drop, training);
  Pieces pieces;
  for (size_t i = 0; i < messages.size(); ++i) {
    if (!drop[i]) add_message(pieces, messages[i], functions, options);
  }
  return pieces;
}

}  // namespace

Pieces render_harmony(const std::vector<HarmonyMessage>& messages, const HarmonyRenderOptions& options) {
  return render(messages, options, false);
}

Pieces render_harmony_for_completion(const std::vector<HarmonyMessage>& messages, HarmonyRole next,
                                     const HarmonyRenderOptions& options) {
  Pieces pieces = render(messages, options, false);
  add(pieces, HarmonySpecial::kStart);
  add(pieces, std::string(harmony_role_name(next)));
  return pieces;
}

Pieces render_harmony_for_training(const std::vector<HarmonyMessage>& messages, const HarmonyRenderOptions& options) {
  Pieces pieces = render(messages, options, true);
  if (!messages.empty() && messages.back().author.role == HarmonyRole::kAssistant &&
      messages.back().channel == "final") {
    pieces.back() = {HarmonySpecial::kReturn, {}};
  }
  return pieces;
}

Pieces render_harmony_message(const HarmonyMessage& message, bool has_function_tools,
                              const HarmonyRenderOptions& options) {
  Pieces pieces;
  add_message(pieces, message, has_function_tools, options);
  return pieces;
}

std::string harmony_text(const Pieces& pieces) {
  std::string all;
  for (const HarmonyPiece& piece : pieces) {
    all += piece.special ? harmony_special_text(*piece.special) : std::string_view(piece.text);
  }
  return all;
}

std::vector<int32_t> harmony_ids(const Pieces& pieces, const HarmonyTokens& tokens, const PlainEncode& encode) {
  std::vector<int32_t> ids;
  for (const HarmonyPiece& piece : pieces) {
    if (piece.special) {
      ids.push_back(tokens.id(*piece.special));
    } else {
      const std::vector<int32_t> more = encode(piece.text);
      ids.insert(ids.end(), more.begin(), more.end());
    }
  }
  return ids;
}

}  // namespace tessera
