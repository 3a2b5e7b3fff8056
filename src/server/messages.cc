// POST /v1/messages: Anthropic's shape over the same requests.
#include <set>

#include "server/chat_input.h"
#include "server/messages_format.h"
#include "server/sampling_fields.h"
#include "server/tables.h"

namespace tessera::server {

namespace {

constexpr Field kMessagesRows[] = {
    {"messages", kArray, "the conversation", Support::kYes, 0, -1, nullptr, true},
    {"max_tokens", kInteger, "tokens of the answer, thinking included", Support::kYes, 1, 1e9, nullptr, true},
    {"model", kString, "the served model's name"},
    {"system", kString | kArray, "instructions"},
    {"stop_sequences", kArray, "up to 16 strings that end the answer"},
    {"stream", kBoolean, "answer with server-sent events"},
    {"temperature", kNumber, "0 takes the likeliest token", Support::kYes, 0, 1},
    {"top_p", kNumber, "share of the probability to draw from", Support::kYes, 0, 1},
    {"top_k", kInteger, "the k likeliest tokens; 0: all", Support::kYes, 0, 1e9},
    {"tools", kArray, "functions that the model may call"},
    {"tool_choice", kObject, "auto, any, none or a tool"},
    {"thinking", kObject, "disabled hides it; budget_tokens sets the effort"},
    {"metadata", kObject, "the client's notes", Support::kLabel},
    {"service_tier", kString, "can be asked for", Support::kOnly, 0, -1, R"(["auto", "standard_only"])"},
    {"container", kString, "there are none", Support::kRefused},
    {"mcp_servers", kArray, "tools are called by the client", Support::kRefused},
};
const std::span<const Field> kMessagesParts[] = {kMessagesRows};
constexpr Field kMessageRows[] = {
    {"role", kString, "", Support::kYes, 0, -1, R"(["user", "assistant"])", true},
    {"content", kString | kArray, "", Support::kYes, 0, -1, nullptr, true},
};
constexpr Field kBlockRows[] = {
    {"type", kString, "", Support::kYes, 0, -1,
     R"(["text", "thinking", "redacted_thinking", "tool_use", "tool_result"])", true},
    {"text", kString, ""},
    {"thinking", kString, ""},
    {"signature", kString, "", Support::kLabel},
    {"data", kString, "", Support::kLabel},
    {"id", kString, ""},
    {"name", kString, ""},
    {"input", kObject, ""},
    {"tool_use_id", kString, ""},
    {"content", kString | kArray, ""},
    {"is_error", kBoolean, "", Support::kLabel},
    {"citations", kArray, "", Support::kLabel},
    {"cache_control", kObject, "", Support::kLabel},
};
constexpr Field kToolRows[] = {
    {"name", kString, "", Support::kYes, 0, -1, nullptr, true},
    {"description", kString, ""},
    {"input_schema", kObject, "", Support::kYes, 0, -1, nullptr, true},
    {"type", kString, "can be given", Support::kOnly, 0, -1, R"(["custom"])"},
    {"strict", kBoolean, "calls always follow their schema"},
    {"cache_control", kObject, "", Support::kLabel},
};
constexpr Field kChoiceRows[] = {
    {"type", kString, "", Support::kYes, 0, -1, R"(["auto", "any", "tool", "none"])", true},
    {"name", kString, ""},
    {"disable_parallel_tool_use", kBoolean, ""},
};
constexpr Field kThinkingRows[] = {
    {"type", kString, "", Support::kYes, 0, -1, R"(["enabled", "disabled", "adaptive"])", true},
    {"budget_tokens", kInteger, "", Support::kYes, 1, 1e9},
};

const std::string& text_of(const OrderedJson& block, const char* key, const std::string& where) {
  const OrderedJson* v = find(block, key);
  if (!v) throw HttpError(400, "Field required", where + "." + key, "missing_required_parameter");
  return v->get_ref<const std::string&>();
}

// Text blocks joined.
std::string plain_text(OrderedJson& content, const std::string& where) {
  if (content.is_string()) return content;
  std::string text;
  for (size_t i = 0; i < content.size(); ++i) {
    const std::string here = fmt::format("{}[{}]", where, i);
    check_rows(content[i], kBlockRows, here);
    if (content[i]["type"] != "text") unsupported(here + ".type", "only text can stand here");
    text += text_of(content[i], "text", here);
  }
  return text;
}

// One message becomes several: results of tools come before what the user says. `calls`: ids of tool uses so far.
void add_message(OrderedJson& message, const std::string& where, std::set<std::string>& calls, OrderedJson& out) {
  check_rows(message, kMessageRows, where);
  const bool user = message["role"] == "user";
  OrderedJson& content = message["content"];
  if (content.is_string()) {
    out.push_back({{"role", message["role"]}, {"content", content}});
    return;
  }
  OrderedJson turn = {{"role", message["role"]}};
  std::string text, thinking;
  for (size_t i = 0; i < content.size(); ++i) {
    const std::string here = fmt::format("{}.content[{}]", where, i);
    check_rows(content[i], kBlockRows, here);
    OrderedJson& block = content[i];
    const std::string type = block["type"];
    const bool of_user = type == "tool_result";
    if (type != "text" && of_user != user)
      bad_value(here + ".type",
                fmt::format("a message of role {} has no {}", message["role"].get<std::string>(), type));
    if (type == "text") {
      text += text_of(block, "text", here);
    } else if (type == "thinking") {
      thinking += text_of(block, "thinking", here);
    } else if (type == "tool_use") {
      calls.insert(text_of(block, "id", here));
      turn["tool_calls"].push_back({{"id", text_of(block, "id", here)},
                                    {"type", "function"},
                                    {"function",
                                     {{"name", text_of(block, "name", here)},
                                      {"arguments", dump(block.value("input", OrderedJson::object()))}}}});
    } else if (type == "tool_result") {
      if (!calls.contains(text_of(block, "tool_use_id", here)))
        bad_value(here + ".tool_use_id", "no tool use before this message has this id");
      const std::string result =
          block.contains("content") ? plain_text(block["content"], here + ".content") : std::string();
      out.push_back({{"role", "tool"}, {"tool_call_id", text_of(block, "tool_use_id", here)}, {"content", result}});
    }
  }
  if (!thinking.empty()) turn["reasoning_content"] = thinking;
  if (user && text.empty() && !content.empty()) return;  // results only
  turn["content"] = text;
  out.push_back(std::move(turn));
}

OrderedJson read_messages_tools(OrderedJson& tools) {
  OrderedJson chat = OrderedJson::array();
  for (size_t i = 0; i < tools.size(); ++i) {
    const std::string here = fmt::format("tools[{}]", i);
    check_rows(tools[i], kToolRows, here);
    OrderedJson function = {{"name", tools[i]["name"]}, {"parameters", std::move(tools[i]["input_schema"])}};
    if (tools[i].contains("description")) function["description"] = tools[i]["description"];
    check_function(function, here);
    chat.push_back({{"type", "function"}, {"function", std::move(function)}});
  }
  return read_tools(chat);
}

void read_choice(OrderedJson& choice, ReplyShape& shape) {
  check_rows(choice, kChoiceRows, "tool_choice");
  const std::string type = choice["type"];
  shape.parallel_tool_calls = !boolean_or(choice, "disable_parallel_tool_use", false);
  if (type == "tool") return apply_named(shape, text_of(choice, "name", "tool_choice"), "tool_choice.name");
  apply_choice(shape, type == "any" ? "required" : type, "tool_choice.type");
}

// Anthropic's budget as one of the efforts that a template knows.
std::string effort_of(const OrderedJson& thinking) {
  const int64_t budget = integer_or(thinking, "budget_tokens", 0);
  return budget == 0 ? "" : budget < 4096 ? "low" : budget < 16384 ? "medium" : "high";
}

}  // namespace

const FieldTable kMessagesTable = kMessagesParts;

MessagesInput read_messages_body(OrderedJson& body) {
  MessagesInput out;
  OrderedJson messages = OrderedJson::array();
  if (auto system = body.find("system"); system != body.end())
    messages.push_back({{"role", "system"}, {"content", plain_text(*system, "system")}});
  std::set<std::string> calls;
  if (body["messages"].empty()) bad_value("messages", "expected at least one message");
  for (size_t i = 0; i < body["messages"].size(); ++i)
    add_message(body["messages"][i], fmt::format("messages[{}]", i), calls, messages);
  out.conversation.messages = read_chat_messages(messages);
  if (auto thinking = body.find("thinking"); thinking != body.end()) {
    check_rows(*thinking, kThinkingRows, "thinking");
    out.thinking = (*thinking)["type"] != "disabled";
    out.conversation.reasoning_effort = out.thinking ? effort_of(*thinking) : "low";
  }
  out.shape.parameters_field = "input_schema";
  if (body.contains("tools")) out.shape.tools = read_messages_tools(body["tools"]);
  if (body.contains("tool_choice")) read_choice(body["tool_choice"], out.shape);
  return out;
}

std::unique_ptr<Job> handle_messages(RouteCall& call) {
  Service& service = *call.service;
  OrderedJson body = parse_body(call.request.body);
  call.request.body = {};
  check_fields(body, kMessagesTable);
  GenerationPlan plan{.dialect = Dialect::kAnthropic};
  MessagesFormat format{.model = read_model(call.state, body)};
  plan.stream = format.stream = boolean_or(body, "stream", false);
  Question question;
  question.params = read_sampling(service, body);
  question.params.max_tokens = integer_or(body, "max_tokens", 0);
  question.rules = {.chat = true, .stop = read_stop(body, "stop_sequences")};

  MessagesInput read = read_messages_body(body);
  format.thinking = read.thinking;
  ask_chat(service, question, read.conversation, read.shape);
  plan.questions.push_back(std::move(question));
  plan.formatter = make_messages_formatter(std::move(format));
  return generate(call, std::move(plan));
}

}  // namespace tessera::server
