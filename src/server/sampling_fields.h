// Rows and readers that the generating routes share: the model's name, sampling, stop strings.
#pragma once

#include "server/fields.h"
#include "server/routes.h"

namespace tessera::server {

extern const std::span<const Field> kSamplingFields;   // temperature, top_p, seed, ... and extensions
extern const std::span<const Field> kPenaltyFields;    // frequency_penalty, presence_penalty, logit_bias
extern const std::span<const Field> kExtensionFields;  // top_k, min_p, ... as vLLM names them
extern const std::span<const Field> kLabelFields;      // user, metadata, ...

// 404 for a model that is not served here; returns the name to answer with.
std::string read_model(const ServerState& state, const OrderedJson& body);
// All rows above; what is absent keeps the model's defaults.
SamplingParams read_sampling(const Service& service, const OrderedJson& body);
// "stop" or "stop_sequences": a string or an array of at most 16.
std::vector<std::string> read_stop(const OrderedJson& body, const char* name);
// "stream_options": whether usage is asked for, in a last event and in every one before it.
struct UsageOptions {
  bool at_end = false, always = false;
};
UsageOptions read_usage_options(OrderedJson& body);
double read_timeout(const OrderedJson& body);

OrderedJson usage_json(int64_t prompt, int64_t cached, int64_t completion, int64_t reasoning);

}  // namespace tessera::server
