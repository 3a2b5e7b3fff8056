#include "server/chat_input.h"

#include <set>

#include "text/json_text.h"

namespace tessera::server {

namespace {

constexpr size_t kMaxTools = 512;
constexpr size_t kMaxNameBytes = 128;

constexpr Field kMessageRows[] = {
    {"role", kString, "", Support::kYes, 0, -1, R"(["system", "developer", "user", "assistant", "tool"])", true},
    {"content", kString | kArray, "text, or an array of {type: text, text}"},
    {"name", kString, "of the speaker, or of a tool"},
    {"reasoning_content", kString, "of an assistant: what it thought, for tool calls that go on"},
    {"reasoning", kString, "another name of reasoning_content"},
    {"tool_calls", kArray, "of an assistant"},
    {"tool_call_id", kString, "of a tool's result"},
    {"refusal", kString, "of an assistant", Support::kLabel},
    {"annotations", kArray, "of an assistant", Support::kLabel},
    {"audio", kObject, "this model reads text only", Support::kRefused},
    {"function_call", kObject, "use tool_calls", Support::kRefused},
};
constexpr Field kPartRows[] = {
    {"type", kString, "", Support::kYes, 0, -1, nullptr, true},
    {"text", kString, ""},
    {"refusal", kString, ""},
    {"annotations", kArray, "", Support::kLabel},
    {"logprobs", kArray, "", Support::kLabel},
    {"cache_control", kObject, "", Support::kLabel},
    {"image_url", kString | kObject, "this model reads text only", Support::kRefused},
    {"input_audio", kObject, "this model reads text only", Support::kRefused},
    {"file", kObject, "this model reads text only", Support::kRefused},
};
constexpr Field kCallRows[] = {
    {"id", kString, "", Support::kYes, 0, -1, nullptr, true},
    {"type", kString, "are known here", Support::kOnly, 0, -1, R"(["function"])"},
    {"function", kObject, "", Support::kYes, 0, -1, nullptr, true},
    {"index", kInteger, "as streams number them", Support::kLabel},
};
constexpr Field kCalledRows[] = {
    {"name", kString, "", Support::kYes, 0, -1, nullptr, true},
    {"arguments", kString, "JSON text", Support::kYes, 0, -1, nullptr, true},
};
constexpr Field kToolRows[] = {
    {"type", kString, "can be given", Support::kOnly, 0, -1, R"(["function"])", true},
    {"function", kObject, "", Support::kYes, 0, -1, nullptr, true},
};
constexpr Field kFunctionRows[] = {
    {"name", kString, "", Support::kYes, 0, -1, nullptr, true},
    {"description", kString, ""},
    {"parameters", kObject, "JSON schema of an object"},
    {"strict", kBoolean, "calls always follow their schema"},
};
constexpr Field kChoiceRows[] = {
    {"type", kString, "can be chosen", Support::kOnly, 0, -1, R"(["function"])", true},
    {"function", kObject, "", Support::kYes, 0, -1, nullptr, true},
};
constexpr Field kNameRows[] = {{"name", kString, "", Support::kYes, 0, -1, nullptr, true}};
constexpr Field kFormatRows[] = {
    {"type", kString, "", Support::kYes, 0, -1, R"(["text", "json_object", "json_schema"])", true},
    {"json_schema", kObject, "with type json_schema"},
};
constexpr Field kSchemaRows[] = {
    {"name", kString, "", Support::kYes, 0, -1, nullptr, true},
    {"description", kString, "", Support::kLabel},
    {"schema", kObject, ""},
    {"strict", kBoolean, "the answer always follows the schema"},
    {"type", kString, "", Support::kLabel},
};
constexpr Field kStructuredRows[] = {
    {"json", kObject, "the answer is valid under this JSON schema"},
    {"regex", kString, "the whole answer matches"},
    {"grammar", kString, "the answer is what the rule root derives (GBNF)"},
};

std::string part_text(OrderedJson& part, const std::string& where) {
  check_rows(part, kPartRows, where);
  const std::string type = part["type"];
  if (type == "text" || type == "input_text" || type == "output_text") {
    if (!find(part, "text"))
      throw HttpError(400, "Missing required parameter: '" + where + ".text'.", where + ".text",
                      "missing_required_parameter");
    return part["text"];
  }
  if (type == "refusal") return string_or(part, "refusal", "");
  unsupported(where + ".type", "\"" + type + "\": this model reads text only");
}

OrderedJson read_calls(OrderedJson& calls, const std::string& where, std::set<std::string>& ids) {
  OrderedJson out = OrderedJson::array();
  for (size_t i = 0; i < calls.size(); ++i) {
    const std::string here = fmt::format("{}[{}]", where, i);
    check_rows(calls[i], kCallRows, here);
    check_rows(calls[i]["function"], kCalledRows, here + ".function");
    ids.insert(calls[i]["id"].get<std::string>());
    out.push_back(
        {{"id", calls[i]["id"]},
         {"type", "function"},
         {"function", {{"name", calls[i]["function"]["name"]}, {"arguments", calls[i]["function"]["arguments"]}}}});
  }
  return out;
}

void only_for(const OrderedJson& message, const char* key, const char* role, const std::string& where) {
  if (find(message, key) && message["role"] != role)
    bad_value(where + "." + key, fmt::format("only a message of role {} has it", role));
}

}  // namespace

std::string content_text(OrderedJson& content, const std::string& where) {
  if (content.is_string()) return content;
  std::string text;
  for (size_t i = 0; i < content.size(); ++i) text += part_text(content[i], fmt::format("{}[{}]", where, i));
  return text;
}

OrderedJson read_chat_messages(OrderedJson& messages, const std::string& where) {
  if (!messages.is_array()) bad_type(where, kArray, messages);
  if (messages.empty()) bad_value(where, "expected at least one message");
  OrderedJson out = OrderedJson::array();
  std::set<std::string> calls;
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string here = fmt::format("{}[{}]", where, i);
    OrderedJson& m = messages[i];
    check_rows(m, kMessageRows, here);
    const std::string role = m["role"];
    OrderedJson clean = {{"role", role}};
    for (const char* key : {"tool_calls", "reasoning_content", "reasoning"}) only_for(m, key, "assistant", here);
    only_for(m, "tool_call_id", "tool", here);
    const bool calling = find(m, "tool_calls") && !m["tool_calls"].empty();
    const bool thinking = find(m, "reasoning_content") || find(m, "reasoning");
    if (find(m, "content")) {
      clean["content"] = content_text(m["content"], here + ".content");
    } else if (role != "assistant" || (!calling && !thinking)) {
      throw HttpError(400, "Missing required parameter: '" + here + ".content'.", here + ".content",
                      "missing_required_parameter");
    } else {
      clean["content"] = "";
    }
    if (find(m, "name")) clean["name"] = m["name"];
    if (role == "user" || role == "assistant") clean.erase("name");  // prompts do not say who speaks
    if (thinking) clean["reasoning_content"] = m[find(m, "reasoning_content") ? "reasoning_content" : "reasoning"];
    if (calling) clean["tool_calls"] = read_calls(m["tool_calls"], here + ".tool_calls", calls);
    if (role == "tool") {
      if (!find(m, "tool_call_id"))
        throw HttpError(400, "Missing required parameter: '" + here + ".tool_call_id'.", here + ".tool_call_id",
                        "missing_required_parameter");
      if (!calls.contains(m["tool_call_id"].get<std::string>()))
        bad_value(here + ".tool_call_id", "no tool call before this message has this id");
      clean["tool_call_id"] = m["tool_call_id"];
      clean.erase("name");  // the call says which tool it was
    }
    out.push_back(std::move(clean));
  }
  return out;
}

void check_function(OrderedJson& function, const std::string& where) {
  check_rows(function, kFunctionRows, where);
  const std::string name = function["name"];
  const bool known =
      name.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.") == std::string::npos;
  if (name.empty() || name.size() > kMaxNameBytes || !known)
    bad_value(where + ".name", fmt::format("expected 1 to {} letters, digits, _, - or .", kMaxNameBytes));
  if (const OrderedJson* parameters = find(function, "parameters")) {
    try {
      check_json_depth(*parameters, where + ".parameters");
    } catch (const Error& e) {
      bad_value(where + ".parameters", e.what());
    }
  }
}

OrderedJson read_tools(OrderedJson& tools) {
  if (tools.size() > kMaxTools) bad_value("tools", fmt::format("expected at most {} tools", kMaxTools));
  OrderedJson out = OrderedJson::array();
  std::set<std::string> names;
  for (size_t i = 0; i < tools.size(); ++i) {
    const std::string here = fmt::format("tools[{}]", i);
    check_rows(tools[i], kToolRows, here);
    OrderedJson& function = tools[i]["function"];
    check_function(function, here + ".function");
    if (!names.insert(function["name"].get<std::string>()).second)
      bad_value(here + ".function.name", "another tool has this name");
    OrderedJson clean = {{"name", function["name"]}};
    for (const char* key : {"description", "parameters"})
      if (function.contains(key)) clean[key] = function[key];
    out.push_back({{"type", "function"}, {"function", std::move(clean)}});
  }
  return out;
}

void apply_choice(ReplyShape& shape, const std::string& choice, const std::string& param) {
  if (choice == "none") {
    shape.choice = ToolChoice::kNone;
    shape.tools = nullptr;
  } else if (choice == "auto") {
    shape.choice = ToolChoice::kAuto;
  } else if (choice == "required") {
    if (shape.tools.empty()) bad_value(param, "required, but there are no tools");
    shape.choice = ToolChoice::kRequired;
  } else {
    bad_value(param, "Supported values are: none, auto, required, or a function's name in an object.");
  }
}

void apply_named(ReplyShape& shape, const std::string& name, const std::string& param) {
  bool known = false;
  for (const OrderedJson& tool : shape.tools) known |= tool["function"]["name"] == name;
  if (!known) bad_value(param, "no tool is named \"" + name + "\"");
  shape.choice = ToolChoice::kNamed;
  shape.tool_name = name;
}

void apply_format(ReplyShape& shape, const std::string& type, OrderedJson& format, const std::string& where) {
  if (type == "json_object") shape.format = AnswerFormat::kJsonObject;
  if (type != "json_schema") return;
  check_rows(format, kSchemaRows, where);
  shape.format = AnswerFormat::kJsonSchema;
  shape.schema = format.contains("schema") ? format["schema"] : OrderedJson::object();
}

ReplyShape read_shape(OrderedJson& body, OrderedJson tools) {
  ReplyShape shape;
  shape.tools = std::move(tools);
  shape.parallel_tool_calls = boolean_or(body, "parallel_tool_calls", true);
  if (auto choice = body.find("tool_choice"); choice != body.end()) {
    if (choice->is_string()) {
      apply_choice(shape, *choice, "tool_choice");
    } else {
      check_rows(*choice, kChoiceRows, "tool_choice");
      check_rows((*choice)["function"], kNameRows, "tool_choice.function");
      apply_named(shape, (*choice)["function"]["name"], "tool_choice.function.name");
    }
  }
  if (auto format = body.find("response_format"); format != body.end()) {
    check_rows(*format, kFormatRows, "response_format");
    if ((*format)["type"] == "json_schema" && !format->contains("json_schema"))
      throw HttpError(400, "Missing required parameter: 'response_format.json_schema'.", "response_format.json_schema",
                      "missing_required_parameter");
    apply_format(shape, (*format)["type"], (*format)["json_schema"], "response_format.json_schema");
  }
  if (auto structured = body.find("structured_outputs"); structured != body.end()) {
    check_rows(*structured, kStructuredRows, "structured_outputs");
    if (structured->size() != 1 || shape.format != AnswerFormat::kText)
      bad_value("structured_outputs", "expected one of json, regex and grammar, and no response_format");
    shape.format_field = "structured_outputs." + structured->begin().key();
    if (structured->contains("json")) {
      shape.format = AnswerFormat::kJsonSchema;
      shape.schema = (*structured)["json"];
    } else {
      const bool regex = structured->contains("regex");
      shape.format = regex ? AnswerFormat::kRegex : AnswerFormat::kEbnf;
      shape.grammar = (*structured)[regex ? "regex" : "grammar"];
    }
  }
  return shape;
}

HttpError shape_error(const Error& e, const ReplyShape& shape) {
  const std::string message = e.what();
  const size_t colon = message.find(": ");
  std::string param = colon == std::string::npos ? "" : message.substr(0, colon);
  if (param.empty() || param.find(' ') != std::string::npos)
    param = shape.format == AnswerFormat::kText ? "tools" : shape.format_field;
  return {400, message, std::move(param), "invalid_value"};
}

}  // namespace tessera::server
