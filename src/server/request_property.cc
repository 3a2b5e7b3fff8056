#include "server/request_property.h"

#include "server/responses_input.h"
#include "server/routes.h"
#include "server/sampling_fields.h"
#include "server/tables.h"

namespace tessera::server {

namespace {

void read_as(const Route& route, OrderedJson& body) {
  check_fields(body, route.fields);
  if (route.handle == handle_chat_completions) {
    read_max_tokens(body);
    read_usage_options(body);
    read_stop(body, "stop");
    OrderedJson tools;
    if (body.contains("tools")) tools = read_tools(body["tools"]);
    read_shape(body, std::move(tools));
    read_chat_messages(body["messages"]);
  } else if (route.handle == handle_completions) {
    read_usage_options(body);
    read_stop(body, "stop");
    read_shape(body, OrderedJson());
  } else if (route.handle == handle_responses) {
    OrderedJson messages = OrderedJson::array(), tools;
    read_input_items(body["input"], messages);
    read_chat_messages(messages, "input");
    if (body.contains("tools")) tools = read_response_tools(body["tools"]);
    read_response_shape(body, std::move(tools));
  } else if (route.handle == handle_messages) {
    read_messages_body(body);
  }
}

// The error as a client would get it.
std::string check_error(const Route& route, const HttpError& e) {
  if (e.status() != 400) return fmt::format("{}: status {}: {}", route.path, e.status(), e.what());
  const OrderedJson json = OrderedJson::parse(error_json(route.dialect, e), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json["error"]["message"].is_string())
    return fmt::format("{}: the error is not well formed", route.path);
  return {};
}

}  // namespace

std::string check_request_body(std::string_view data) {
  for (const Route& route : routes()) {
    if (route.fields.empty()) continue;
    try {
      OrderedJson body = parse_body(std::string(data));
      read_as(route, body);
    } catch (const HttpError& e) {
      if (std::string wrong = check_error(route, e); !wrong.empty()) return wrong;
    } catch (const std::exception& e) {
      return fmt::format("{}: {}", route.path, e.what());
    }
  }
  return {};
}

}  // namespace tessera::server
