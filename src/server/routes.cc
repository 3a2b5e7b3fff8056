#include "server/routes.h"

#include "server/tables.h"

namespace tessera::server {

std::span<const Route> routes() {
  static const Route kRoutes[] = {
      {.method = "POST",
       .path = "/v1/chat/completions",
       .handle = handle_chat_completions,
       .summary = "answer a conversation",
       .fields = kChatTable,
       .generates = true,
       .streams = true},
      {.method = "POST",
       .path = "/v1/completions",
       .handle = handle_completions,
       .summary = "continue a text",
       .fields = kCompletionTable,
       .generates = true,
       .streams = true},
      {.method = "POST",
       .path = "/v1/responses",
       .handle = handle_responses,
       .summary = "answer items, and keep them",
       .fields = kResponsesTable,
       .generates = true,
       .streams = true},
      {.method = "GET", .path = "/v1/responses/{id}", .handle = handle_get_response, .summary = "a kept response"},
      {.method = "DELETE", .path = "/v1/responses/{id}", .handle = handle_delete_response, .summary = "forget one"},
      {.method = "POST",
       .path = "/v1/messages",
       .handle = handle_messages,
       .summary = "answer in Anthropic's shape",
       .fields = kMessagesTable,
       .dialect = Dialect::kAnthropic,
       .generates = true,
       .streams = true},
      {.method = "GET", .path = "/v1/models", .handle = handle_models, .summary = "the served model"},
      {.method = "GET", .path = "/v1/models/{id}", .handle = handle_model, .summary = "one model"},
      {.method = "POST",
       .path = "/tokenize",
       .handle = handle_tokenize,
       .summary = "text or messages to token ids",
       .fields = kTokenizeTable},
      {.method = "POST",
       .path = "/detokenize",
       .handle = handle_detokenize,
       .summary = "token ids to text",
       .fields = kDetokenizeTable},
      {.method = "GET",
       .path = "/health",
       .handle = handle_health,
       .summary = "200 when it serves",
       .open = true,
       .needs_model = false},
      {.method = "GET",
       .path = "/metrics",
       .handle = handle_metrics,
       .summary = "Prometheus metrics",
       .needs_model = false},
      {.method = "GET",
       .path = "/openapi.json",
       .handle = handle_openapi,
       .summary = "this description",
       .needs_model = false},
      {.method = "GET", .path = "/", .handle = handle_page, .summary = "a chat page", .needs_model = false},
  };
  return kRoutes;
}

RouteMatch find_route(std::string_view method, std::string_view path) {
  constexpr std::string_view kId = "{id}";
  RouteMatch match;
  for (const Route& route : routes()) {
    const std::string_view pattern = route.path;
    std::string argument;
    if (pattern.ends_with(kId)) {
      const std::string_view stem = pattern.substr(0, pattern.size() - kId.size());
      if (!path.starts_with(stem) || path.size() == stem.size() || path.find('/', stem.size()) != path.npos) continue;
      argument = path.substr(stem.size());
    } else if (pattern != path) {
      continue;
    }
    if (method == route.method || (method == "HEAD" && std::string_view(route.method) == "GET")) {
      match.route = &route;
      match.argument = argument;
      match.allowed.clear();
      return match;
    }
    if (!match.allowed.empty()) match.allowed += ", ";
    match.allowed += route.method;
  }
  return match;
}

}  // namespace tessera::server
