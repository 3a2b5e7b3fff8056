#include "server/responses_input.h"

#include <set>

namespace tessera::server {

namespace {

constexpr Field kMessageItem[] = {
    {"type", kString, ""},
    {"role", kString, "", Support::kYes, 0, -1, R"(["system", "developer", "user", "assistant"])", true},
    {"content", kString | kArray, "text, or an array of text parts", Support::kYes, 0, -1, nullptr, true},
    {"id", kString, "", Support::kLabel},
    {"status", kString, "", Support::kLabel},
    {"phase", kString, "", Support::kLabel},
};
constexpr Field kReasoningItem[] = {
    {"type", kString, ""},
    {"content", kArray, "of {type: reasoning_text, text}"},
    {"summary", kArray, "", Support::kLabel},
    {"id", kString, "", Support::kLabel},
    {"status", kString, "", Support::kLabel},
    {"encrypted_content", kString, "reasoning is not encrypted here", Support::kRefused},
};
constexpr Field kReasoningPart[] = {
    {"type", kString, "is reasoning", Support::kOnly, 0, -1, R"(["reasoning_text", "text"])", true},
    {"text", kString, "", Support::kYes, 0, -1, nullptr, true},
};
constexpr Field kCallItem[] = {
    {"type", kString, ""},
    {"call_id", kString, "", Support::kYes, 0, -1, nullptr, true},
    {"name", kString, "", Support::kYes, 0, -1, nullptr, true},
    {"arguments", kString, "JSON text", Support::kYes, 0, -1, nullptr, true},
    {"id", kString, "", Support::kLabel},
    {"status", kString, "", Support::kLabel},
};
constexpr Field kOutputItem[] = {
    {"type", kString, ""},
    {"call_id", kString, "", Support::kYes, 0, -1, nullptr, true},
    {"output", kString | kArray, "text, or an array of text parts", Support::kYes, 0, -1, nullptr, true},
    {"id", kString, "", Support::kLabel},
    {"status", kString, "", Support::kLabel},
};
constexpr Field kFunctionTool[] = {
    {"type", kString, ""},
    {"name", kString, "", Support::kYes, 0, -1, nullptr, true},
    {"description", kString, ""},
    {"parameters", kObject, "JSON schema of an object"},
    {"strict", kBoolean, "calls always follow their schema"},
};
constexpr Field kTextRows[] = {
    {"format", kObject, "text, json_object or json_schema"},
    {"verbosity", kString, "can be asked for", Support::kOnly, 0, -1, R"(["medium"])"},
};
constexpr Field kFormatRows[] = {
    {"type", kString, "", Support::kYes, 0, -1, R"(["text", "json_object", "json_schema"])", true},
    {"name", kString, ""},
    {"description", kString, "", Support::kLabel},
    {"schema", kObject, ""},
    {"strict", kBoolean, "the answer always follows the schema"},
};
constexpr Field kChoiceRows[] = {
    {"type", kString, "can be chosen", Support::kOnly, 0, -1, R"(["function"])", true},
    {"name", kString, "", Support::kYes, 0, -1, nullptr, true},
};

// Items one by one. Reasoning and calls belong to one turn of the assistant until something else comes.
class Items {
 public:
  explicit Items(OrderedJson& messages) : messages_(messages) {
    for (const OrderedJson& m : messages)
      if (const OrderedJson* calls = find(m, "tool_calls"))
        for (const OrderedJson& call : *calls) calls_.insert(call["id"].get<std::string>());
  }

  void add(OrderedJson& item, const std::string& where) {
    if (!item.is_object()) bad_type(where, kObject, item);
    const OrderedJson* type = find(item, "type");
    if (type != nullptr && !type->is_string()) bad_type(where + ".type", kString, *type);
    const std::string kind = type ? type->get<std::string>() : "message";
    if (kind == "message") return add_message(item, where);
    if (kind == "reasoning") return add_reasoning(item, where);
    if (kind == "function_call") return add_call(item, where);
    if (kind == "function_call_output") return add_output(item, where);
    unsupported(where + ".type",
                "\"" + kind + "\": only message, reasoning, function_call and function_call_output are known here");
  }

  void close() { open_ = false; }

 private:
  OrderedJson& turn() {
    if (!open_) messages_.push_back({{"role", "assistant"}});
    open_ = true;
    return messages_.back();
  }

  void add_message(OrderedJson& item, const std::string& where) {
    check_rows(item, kMessageItem, where);
    item["content"] = content_text(item["content"], where + ".content");
    if (item["role"] == "assistant") {
      OrderedJson& m = turn();
      if (m.contains("content") || m.contains("tool_calls")) {
        open_ = false;
        turn();
      }
      messages_.back()["content"] = std::move(item["content"]);
      return;
    }
    open_ = false;
    messages_.push_back({{"role", item["role"]}, {"content", std::move(item["content"])}});
  }

  void add_reasoning(OrderedJson& item, const std::string& where) {
    check_rows(item, kReasoningItem, where);
    std::string text;
    if (auto content = item.find("content"); content != item.end()) {
      for (size_t i = 0; i < content->size(); ++i) {
        check_rows((*content)[i], kReasoningPart, fmt::format("{}.content[{}]", where, i));
        text += (*content)[i]["text"].get_ref<const std::string&>();
      }
    }
    if (text.empty()) return;
    if (open_ && (messages_.back().contains("content") || messages_.back().contains("tool_calls"))) open_ = false;
    OrderedJson& m = turn();
    const std::string before = string_or(m, "reasoning_content", "");
    m["reasoning_content"] = before.empty() ? text : before + "\n\n" + text;
  }

  void add_call(OrderedJson& item, const std::string& where) {
    check_rows(item, kCallItem, where);
    calls_.insert(item["call_id"].get<std::string>());
    turn()["tool_calls"].push_back({{"id", item["call_id"]},
                                    {"type", "function"},
                                    {"function", {{"name", item["name"]}, {"arguments", item["arguments"]}}}});
  }

  void add_output(OrderedJson& item, const std::string& where) {
    check_rows(item, kOutputItem, where);
    if (!calls_.contains(item["call_id"].get<std::string>()))
      bad_value(where + ".call_id", "no function call before this item has this id");
    open_ = false;
    messages_.push_back({{"role", "tool"},
                         {"tool_call_id", item["call_id"]},
                         {"content", content_text(item["output"], where + ".output")}});
  }

  OrderedJson& messages_;
  std::set<std::string> calls_;
  bool open_ = false;  // the last message is the assistant's turn at hand
};

}  // namespace

void read_input_items(OrderedJson& input, OrderedJson& messages) {
  if (input.is_string()) {
    messages.push_back({{"role", "user"}, {"content", std::move(input)}});
    return;
  }
  if (input.empty()) bad_value("input", "expected at least one item");
  Items items(messages);
  for (size_t i = 0; i < input.size(); ++i) items.add(input[i], fmt::format("input[{}]", i));
}

OrderedJson read_response_tools(OrderedJson& tools) {
  OrderedJson chat = OrderedJson::array();
  for (size_t i = 0; i < tools.size(); ++i) {
    const std::string here = fmt::format("tools[{}]", i);
    if (!tools[i].is_object()) bad_type(here, kObject, tools[i]);
    const OrderedJson* type = find(tools[i], "type");
    if (!type || *type != "function") unsupported(here + ".type", "only functions can be given");
    check_rows(tools[i], kFunctionTool, here);
    tools[i].erase("type");
    check_function(tools[i], here);
    chat.push_back({{"type", "function"}, {"function", std::move(tools[i])}});
  }
  return read_tools(chat);
}

ReplyShape read_response_shape(OrderedJson& body, OrderedJson tools) {
  ReplyShape shape;
  shape.format_field = "text.format.schema";
  shape.parameters_field = "parameters";
  shape.tools = std::move(tools);
  shape.parallel_tool_calls = boolean_or(body, "parallel_tool_calls", true);
  if (auto choice = body.find("tool_choice"); choice != body.end()) {
    if (choice->is_string()) {
      apply_choice(shape, *choice, "tool_choice");
    } else {
      check_rows(*choice, kChoiceRows, "tool_choice");
      apply_named(shape, (*choice)["name"], "tool_choice.name");
    }
  }
  if (auto text = body.find("text"); text != body.end()) {
    check_rows(*text, kTextRows, "text");
    if (auto format = text->find("format"); format != text->end()) {
      check_rows(*format, kFormatRows, "text.format");
      const std::string type = (*format)["type"];
      if (type == "json_schema" && !format->contains("schema"))
        throw HttpError(400, "Missing required parameter: 'text.format.schema'.", "text.format.schema",
                        "missing_required_parameter");
      if (type == "json_schema" && !format->contains("name")) (*format)["name"] = "schema";
      apply_format(shape, type, *format, "text.format");
    }
  }
  return shape;
}

}  // namespace tessera::server
