#include "text/harmony_json.h"

#include "core/error.h"

namespace tessera {
namespace {

constexpr std::string_view kConstrain = "<|constrain|>";

[[noreturn]] void bad(const char* field, const char* found, const char* expected) {
  fail(ErrorCode::kInvalidArgument, "harmony message: field {} is {}, expected {}", field, found, expected);
}

// A member that is absent or null gives null.
const OrderedJson* member(const OrderedJson& json, const char* key) {
  if (!json.is_object()) {
    fail(ErrorCode::kInvalidArgument, "harmony message: found {}, expected an object with the field {}",
         json.type_name(), key);
  }
  const auto it = json.find(key);
  return it == json.end() || it->is_null() ? nullptr : &*it;
}

std::optional<std::string> optional_text(const OrderedJson& json, const char* key) {
  const OrderedJson* value = member(json, key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) bad(key, value->type_name(), "a string");
  return value->get<std::string>();
}

std::string required_text(const OrderedJson& json, const char* key) {
  std::optional<std::string> text = optional_text(json, key);
  if (!text) bad(key, "missing", "a string");
  return *text;
}

const OrderedJson& required_array(const OrderedJson& json, const char* key) {
  const OrderedJson* value = member(json, key);
  if (value == nullptr || !value->is_array()) bad(key, value == nullptr ? "missing" : value->type_name(), "an array");
  return *value;
}

std::vector<HarmonyNamespace> namespaces_from(const OrderedJson& json) {
  std::vector<HarmonyNamespace> out;
  const OrderedJson* tools = member(json, "tools");
  if (tools == nullptr) return out;
  if (!tools->is_object()) bad("tools", tools->type_name(), "an object of namespaces");
  for (const OrderedJson& entry : *tools) {
    HarmonyNamespace space{required_text(entry, "name"), optional_text(entry, "description").value_or(""), {}};
    for (const OrderedJson& tool : required_array(entry, "tools")) {
      const OrderedJson* parameters = member(tool, "parameters");
      space.tools.push_back({required_text(tool, "name"), optional_text(tool, "description").value_or(""),
                             parameters == nullptr ? OrderedJson() : *parameters});
    }
    out.push_back(std::move(space));
  }
  return out;
}

HarmonySystem system_from(const OrderedJson& json) {
  HarmonySystem system;
  system.model_identity = optional_text(json, "model_identity");
  system.knowledge_cutoff = optional_text(json, "knowledge_cutoff");
  system.current_date = optional_text(json, "conversation_start_date");
  system.effort = std::nullopt;
  if (std::optional<std::string> effort = optional_text(json, "reasoning_effort")) {
    for (char& c : *effort) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
    system.effort = harmony_effort(*effort);
    if (!system.effort) bad("reasoning_effort", effort->c_str(), "Low, Medium or High");
  }
  system.channels.clear();
  if (const OrderedJson* config = member(json, "channel_config")) {
    for (const OrderedJson& channel : required_array(*config, "valid_channels")) {
      if (!channel.is_string()) bad("valid_channels", channel.type_name(), "strings");
      system.channels.push_back(channel.get<std::string>());
    }
    const OrderedJson* required = member(*config, "channel_required");
    system.channel_required = required != nullptr && required->is_boolean() && required->get<bool>();
  }
  system.tools = namespaces_from(json);
  return system;
}

HarmonyContent content_from(const OrderedJson& json) {
  const std::string type = required_text(json, "type");
  if (type == "text") return required_text(json, "text");
  if (type == "system_content") return system_from(json);
  if (type == "developer_content") return HarmonyDeveloper{optional_text(json, "instructions"), namespaces_from(json)};
  bad("content.type", type.c_str(), "text, system_content or developer_content");
}

void put(OrderedJson& json, const char* key, const std::optional<std::string>& text) {
  if (text) json[key] = *text;
}

void put_tools(OrderedJson& json, const std::vector<HarmonyNamespace>& namespaces) {
  if (namespaces.empty()) return;
  OrderedJson tools = OrderedJson::object();
  for (const HarmonyNamespace& space : namespaces) {
    OrderedJson entry = {{"name", space.name}};
    if (!space.description.empty()) entry["description"] = space.description;
    entry["tools"] = OrderedJson::array();
    for (const HarmonyTool& tool : space.tools) {
      OrderedJson item = {{"name", tool.name}, {"description", tool.description}};
      if (!tool.parameters.is_null()) item["parameters"] = tool.parameters;
      entry["tools"].push_back(std::move(item));
    }
    tools[space.name] = std::move(entry);
  }
  json["tools"] = std::move(tools);
}

OrderedJson content_to_json(const HarmonyContent& content) {
  if (const auto* text = std::get_if<std::string>(&content)) return {{"type", "text"}, {"text", *text}};
  if (const auto* developer = std::get_if<HarmonyDeveloper>(&content)) {
    OrderedJson json = {{"type", "developer_content"}};
    put(json, "instructions", developer->instructions);
    put_tools(json, developer->tools);
    return json;
  }
  const auto& system = std::get<HarmonySystem>(content);
  OrderedJson json = {{"type", "system_content"}};
  put(json, "model_identity", system.model_identity);
  if (system.effort) {
    std::string effort(harmony_effort_name(*system.effort));
    effort[0] = static_cast<char>(effort[0] - 32);
    json["reasoning_effort"] = effort;
  }
  put(json, "conversation_start_date", system.current_date);
  put(json, "knowledge_cutoff", system.knowledge_cutoff);
  if (!system.channels.empty()) {
    json["channel_config"] = {{"valid_channels", system.channels}, {"channel_required", system.channel_required}};
  }
  put_tools(json, system.tools);
  return json;
}

}  // namespace

HarmonyMessage harmony_message_from_json(const OrderedJson& json) {
  HarmonyMessage message;
  const std::string role = required_text(json, "role");
  const std::optional<HarmonyRole> known = harmony_role(role);
  if (!known) bad("role", role.c_str(), "system, developer, user, assistant or tool");
  message.author = {*known, optional_text(json, "name").value_or("")};
  message.channel = optional_text(json, "channel").value_or("");
  message.recipient = optional_text(json, "recipient").value_or("");
  message.content_type = optional_text(json, "content_type").value_or("");
  if (message.content_type.starts_with(kConstrain)) {
    message.constrained = true;
    message.content_type.erase(0, kConstrain.size());
  }
  const OrderedJson* content = member(json, "content");
  if (content == nullptr) bad("content", "missing", "a string or an array");
  if (content->is_string()) {
    message.content.emplace_back(content->get<std::string>());
  } else if (content->is_array()) {
    for (const OrderedJson& part : *content) message.content.push_back(content_from(part));
  } else {
    bad("content", content->type_name(), "a string or an array");
  }
  return message;
}

std::vector<HarmonyMessage> harmony_messages_from_json(const OrderedJson& array) {
  if (!array.is_array()) bad("messages", array.type_name(), "an array");
  std::vector<HarmonyMessage> messages;
  for (const OrderedJson& message : array) messages.push_back(harmony_message_from_json(message));
  return messages;
}

OrderedJson harmony_to_json(const HarmonyMessage& message) {
  OrderedJson json = {{"role", harmony_role_name(message.author.role)}};
  if (!message.author.name.empty()) json["name"] = message.author.name;
  json["content"] = OrderedJson::array();
  for (const HarmonyContent& content : message.content) json["content"].push_back(content_to_json(content));
  if (!message.channel.empty()) json["channel"] = message.channel;
  if (!message.recipient.empty()) json["recipient"] = message.recipient;
  if (message.constrained || !message.content_type.empty()) {
    json["content_type"] = (message.constrained ? std::string(kConstrain) : "") + message.content_type;
  }
  return json;
}

}  // namespace tessera
