// Responses of /v1/messages (Anthropic's shape), whole and as their stream of events.
#pragma once

#include "server/generation.h"

namespace tessera::server {

struct MessagesFormat {
  std::string model;
  bool stream = false;
  bool thinking = true;  // show the reasoning
};
std::unique_ptr<Formatter> make_messages_formatter(MessagesFormat format);

}  // namespace tessera::server
