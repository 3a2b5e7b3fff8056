#include "text/harmony_chat.h"

#include <map>

#include "core/error.h"
#include "text/json_text.h"

namespace tessera {
namespace {

constexpr std::string_view kFunctions = "functions.";

const OrderedJson* member(const OrderedJson& json, const char* key) {
  const auto it = json.find(key);
  return it == json.end() || it->is_null() ? nullptr : &*it;
}

[[noreturn]] void bad(const std::string& where, const std::string& found, const char* expected) {
  fail(ErrorCode::kInvalidArgument, "{}: found {}, expected {}", where, found, expected);
}

std::string text_member(const OrderedJson& json, const char* key, const std::string& where) {
  const OrderedJson* value = member(json, key);
  if (value == nullptr) bad(where + "." + key, "nothing", "a string");
  if (!value->is_string()) bad(where + "." + key, value->type_name(), "a string");
  return value->get<std::string>();
}

// A string, or an array of text parts.
std::string content_text(const OrderedJson& content, const std::string& where) {
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array()) bad(where, content.type_name(), "a string or an array of text parts");
  std::string all;
  for (size_t i = 0; i < content.size(); ++i) {
    const OrderedJson& part = content[i];
    const std::string here = fmt::format("{}[{}]", where, i);
    if (!part.is_object()) bad(here, part.type_name(), "an object {type: text, text: ...}");
    const std::string type = text_member(part, "type", here);
    if (type != "text" && type != "input_text" && type != "output_text") {
      bad(here + ".type", '"' + type + '"', "text (this model reads nothing else)");
    }
    all += text_member(part, "text", here);
  }
  return all;
}

HarmonyNamespace functions_of(const OrderedJson& tools) {
  HarmonyNamespace space{"functions", "", {}};
  if (tools.is_null()) return space;
  if (!tools.is_array()) bad("tools", tools.type_name(), "an array of functions");
  for (size_t i = 0; i < tools.size(); ++i) {
    const std::string where = fmt::format("tools[{}]", i);
    if (!tools[i].is_object()) bad(where, tools[i].type_name(), "an object");
    const OrderedJson* inner = member(tools[i], "function");
    const OrderedJson& function = inner == nullptr ? tools[i] : *inner;
    if (!function.is_object()) bad(where + ".function", function.type_name(), "an object");
    HarmonyTool tool{text_member(function, "name", where), "", {}};
    if (member(function, "description") != nullptr) tool.description = text_member(function, "description", where);
    if (const OrderedJson* parameters = member(function, "parameters")) tool.parameters = *parameters;
    space.tools.push_back(std::move(tool));
  }
  return space;
}

// Turns the messages one by one, and remembers the calls, so that results find their tools.
class FromChat {
 public:
  FromChat(const HarmonyChatOptions& options, HarmonyNamespace functions)
      : options_(options), functions_(std::move(functions)) {}

  std::vector<HarmonyMessage> run(const OrderedJson& messages) {
    if (!messages.is_array()) bad("messages", messages.type_name(), "an array");
    HarmonyMessage head = harmony_text_message(HarmonyRole::kSystem, "");
    head.content.front() = options_.system;
    out_.push_back(std::move(head));
    if (messages.empty() || !is_instructions(messages[0])) add_developer(std::nullopt);
    for (size_t i = 0; i < messages.size(); ++i) add(messages[i], fmt::format("messages[{}]", i));
    return std::move(out_);
  }

 private:
  static bool is_instructions(const OrderedJson& message) {
    if (!message.is_object()) return false;
    const OrderedJson* role = member(message, "role");
    return role != nullptr && (*role == "system" || *role == "developer");
  }

  void add(const OrderedJson& message, const std::string& where) {
    if (!message.is_object()) bad(where, message.type_name(), "an object");
    const std::string role = text_member(message, "role", where);
    const OrderedJson* content = member(message, "content");
    if (role == "assistant") return add_assistant(message, content, where);
    if (role == "tool" || role == "function") return add_result(message, content, where);
    if (role != "user" && role != "system" && role != "developer") {
      bad(where + ".role", '"' + role + '"', "system, developer, user, assistant or tool");
    }
    if (content == nullptr) bad(where + ".content", "nothing", "a string or an array of text parts");
    std::string text = content_text(*content, where + ".content");
    if (role == "user") {
      out_.push_back(harmony_text_message(HarmonyRole::kUser, std::move(text)));
    } else {
      add_developer(std::move(text));
    }
  }

  // The first one declares the functions; without functions and instructions there is none.
  void add_developer(std::optional<std::string> instructions) {
    HarmonyDeveloper developer;
    if (instructions && !instructions->empty()) developer.instructions = std::move(instructions);
    if (!declared_ && !functions_.tools.empty()) developer.tools.push_back(functions_);
    declared_ = true;
    if (!developer.instructions && developer.tools.empty()) return;
    HarmonyMessage message = harmony_text_message(HarmonyRole::kDeveloper, "");
    message.content.front() = std::move(developer);
    out_.push_back(std::move(message));
  }

  void add_assistant(const OrderedJson& message, const OrderedJson* content, const std::string& where) {
    for (const char* key : {"thinking", "reasoning_content", "reasoning"}) {
      if (member(message, key) == nullptr) continue;
      std::string text = text_member(message, key, where);
      if (!text.empty()) out_.push_back(harmony_text_message(HarmonyRole::kAssistant, std::move(text), "analysis"));
      break;
    }
    const OrderedJson* calls = member(message, "tool_calls");
    if (calls != nullptr && !calls->is_array()) bad(where + ".tool_calls", calls->type_name(), "an array");
    const bool calling = calls != nullptr && !calls->empty();
    if (content != nullptr) {
      std::string text = content_text(*content, where + ".content");
      if (!calling || !text.empty()) {
        out_.push_back(
            harmony_text_message(HarmonyRole::kAssistant, std::move(text), calling ? "commentary" : "final"));
      }
    }
    for (size_t i = 0; calling && i < calls->size(); ++i) {
      add_call((*calls)[i], fmt::format("{}.tool_calls[{}]", where, i));
    }
  }

  void add_call(const OrderedJson& call, const std::string& where) {
    if (!call.is_object()) bad(where, call.type_name(), "an object");
    const OrderedJson* inner = member(call, "function");
    const OrderedJson& function = inner == nullptr ? call : *inner;
    if (!function.is_object()) bad(where + ".function", function.type_name(), "an object");
    const OrderedJson* arguments = member(function, "arguments");
    std::string text = arguments == nullptr     ? "{}"
                       : arguments->is_string() ? arguments->get<std::string>()
                                                : json_text(*arguments, JsonStyle::kPython);
    HarmonyMessage message = harmony_text_message(HarmonyRole::kAssistant, std::move(text), "commentary");
    message.recipient = full_name(text_member(function, "name", where));
    message.content_type = "json";
    message.constrained = options_.constrain_calls;
    last_called_ = message.recipient;
    if (const OrderedJson* id = member(call, "id"); id != nullptr && id->is_string()) {
      called_[id->get<std::string>()] = message.recipient;
    }
    out_.push_back(std::move(message));
  }

  void add_result(const OrderedJson& message, const OrderedJson* content, const std::string& where) {
    std::string name = last_called_;
    const OrderedJson* id = member(message, "tool_call_id");
    if (member(message, "name") != nullptr) {
      name = full_name(text_member(message, "name", where));
    } else if (id != nullptr && id->is_string() && called_.count(id->get<std::string>()) > 0) {
      name = called_[id->get<std::string>()];
    }
    if (name.empty())
      bad(where, "a tool result with no call before it", "a name, or a tool_call_id of an earlier call");
    const bool parts = content != nullptr && content->is_array() && !content->empty() && content->front().is_object() &&
                       content->front().contains("type");
    std::string text = content == nullptr              ? ""
                       : content->is_string() || parts ? content_text(*content, where + ".content")
                                                       : json_text(*content, JsonStyle::kPython);
    HarmonyMessage result = harmony_text_message(HarmonyRole::kTool, std::move(text), "commentary");
    result.author.name = std::move(name);
    result.recipient = "assistant";
    out_.push_back(std::move(result));
  }

  // The built-in tools are addressed by their own names, all others as functions.NAME.
  std::string full_name(const std::string& name) const {
    if (name.starts_with(kFunctions)) return name;
    for (const HarmonyNamespace& space : options_.system.tools) {
      if (name == space.name || name.starts_with(space.name + ".")) return name;
    }
    return std::string(kFunctions) + name;
  }

  const HarmonyChatOptions& options_;
  HarmonyNamespace functions_;
  bool declared_ = false;
  std::vector<HarmonyMessage> out_;
  std::map<std::string, std::string> called_;  // call id -> recipient
  std::string last_called_;
};

}  // namespace

std::vector<HarmonyMessage> harmony_from_chat(const OrderedJson& messages, const OrderedJson& tools,
                                              const HarmonyChatOptions& options) {
  return FromChat(options, functions_of(tools)).run(messages);
}

HarmonyPart harmony_part(const HarmonyParsed& parsed) {
  const HarmonyMessage& message = parsed.message;
  if (message.author.role != HarmonyRole::kAssistant) return HarmonyPart::kNone;
  if (message.recipient == "assistant") return HarmonyPart::kReasoning;
  const bool called = !message.recipient.empty() && message.recipient != "all" && message.recipient != "user";
  if (called && message.channel != "final") return HarmonyPart::kToolCall;
  if (message.channel == "analysis") return HarmonyPart::kReasoning;
  if (message.channel == "commentary" && parsed.bare) return HarmonyPart::kReasoning;
  return HarmonyPart::kAnswer;
}

std::string harmony_call_name(const HarmonyMessage& message) {
  const std::string& recipient = message.recipient;
  return recipient.starts_with(kFunctions) ? recipient.substr(kFunctions.size()) : recipient;
}

OrderedJson harmony_to_chat(const std::vector<HarmonyParsed>& messages, int64_t first_call) {
  std::string reasoning, answer;
  bool answered = false;
  OrderedJson calls = OrderedJson::array();
  const auto append = [](std::string& all, const std::string& text) {
    if (!all.empty() && !text.empty()) all += '\n';
    all += text;
  };
  for (const HarmonyParsed& parsed : messages) {
    switch (harmony_part(parsed)) {
      case HarmonyPart::kReasoning:
        append(reasoning, parsed.text());
        break;
      case HarmonyPart::kAnswer:
        append(answer, parsed.text());
        answered = true;
        break;
      case HarmonyPart::kToolCall:
        calls.push_back({{"id", fmt::format("call_{}", first_call++)},
                         {"type", "function"},
                         {"function", {{"name", harmony_call_name(parsed.message)}, {"arguments", parsed.text()}}}});
        break;
      case HarmonyPart::kNone:
        break;
    }
  }
  OrderedJson out = {{"role", "assistant"}};
  out["content"] = answered || calls.empty() ? OrderedJson(answer) : OrderedJson();
  if (!reasoning.empty()) out["reasoning_content"] = reasoning;
  if (!calls.empty()) out["tool_calls"] = std::move(calls);
  return out;
}

}  // namespace tessera
