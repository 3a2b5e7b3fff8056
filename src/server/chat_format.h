// Responses of /v1/chat/completions, whole and streamed.
#pragma once

#include <ctime>

#include "server/generation.h"
#include "server/sampling_fields.h"

namespace tessera::server {

struct ChatFormat {
  std::shared_ptr<Service> service;
  std::string model;
  int choices = 1;
  bool stream = false, logprobs = false;
  UsageOptions usage;
  int64_t prompt_tokens = 0;
};
std::unique_ptr<Formatter> make_chat_formatter(ChatFormat format);

// {token, logprob, bytes, top_logprobs} of OpenAI's chat shape.
OrderedJson logprob_json(const Service& service, const TokenLogprob& t);
// JSON has no infinity.
double finite_logprob(float logprob);

}  // namespace tessera::server
