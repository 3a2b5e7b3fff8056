// Responses of /v1/responses, whole and as their stream of events.
#pragma once

#include <ctime>

#include "server/generation.h"

namespace tessera::server {

struct ResponsesFormat {
  ServerState& state;
  std::shared_ptr<Service> service;
  OrderedJson request;   // the response's fields that repeat the request: model, instructions, tools, ...
  OrderedJson messages;  // the conversation before this answer, without instructions
  bool stream = false, store = true, logprobs = false;
};
std::unique_ptr<Formatter> make_responses_formatter(ResponsesFormat format);

}  // namespace tessera::server
