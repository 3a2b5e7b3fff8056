// The table of routes. A route is a handler and a row.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "server/exchange.h"
#include "server/fields.h"
#include "server/state.h"

namespace tessera::server {

struct RouteCall {
  ServerState& state;
  std::shared_ptr<Service> service;  // null only where the route does not need the model
  HttpRequest request;
  Wake wake;
};

// Run on a worker thread. Throws HttpError or tessera::Error.
using Handler = std::unique_ptr<Job> (*)(RouteCall& call);

struct Route {
  const char* method;
  const char* path;  // a last segment {id} stands for any one segment
  Handler handle;
  const char* summary;
  FieldTable fields = {};  // of the body
  Dialect dialect = Dialect::kOpenAi;
  bool open = false;        // asks for no key
  bool needs_model = true;  // 503 while there is none
  bool generates = false;   // may wait for the engine: counted against max_open_requests
  bool streams = false;     // "stream": true answers with server-sent events
};

std::span<const Route> routes();

struct RouteMatch {
  const Route* route = nullptr;
  std::string argument;  // what {id} stands for
  std::string allowed;   // where the path is known and the method is not: "GET, POST"
};
RouteMatch find_route(std::string_view method, std::string_view path);

// The handlers, one file a family.
std::unique_ptr<Job> handle_chat_completions(RouteCall& call);
std::unique_ptr<Job> handle_completions(RouteCall& call);
std::unique_ptr<Job> handle_responses(RouteCall& call);
std::unique_ptr<Job> handle_get_response(RouteCall& call);
std::unique_ptr<Job> handle_delete_response(RouteCall& call);
std::unique_ptr<Job> handle_messages(RouteCall& call);
std::unique_ptr<Job> handle_models(RouteCall& call);
std::unique_ptr<Job> handle_model(RouteCall& call);
std::unique_ptr<Job> handle_tokenize(RouteCall& call);
std::unique_ptr<Job> handle_detokenize(RouteCall& call);
std::unique_ptr<Job> handle_health(RouteCall& call);
std::unique_ptr<Job> handle_metrics(RouteCall& call);
std::unique_ptr<Job> handle_page(RouteCall& call);
std::unique_ptr<Job> handle_openapi(RouteCall& call);

}  // namespace tessera::server
