#include "server/sampling_fields.h"

#include <charconv>

namespace tessera::server {

namespace {

constexpr Field kSamplingRows[] = {
    {"temperature", kNumber, "0 takes the likeliest token", Support::kYes, 0, 2},
    {"top_p", kNumber, "share of the probability to draw from", Support::kYes, 0, 1},
    {"stream", kBoolean, "answer with server-sent events"},
};
constexpr Field kPenaltyRows[] = {
    {"frequency_penalty", kNumber, "subtracted for each time a token was generated", Support::kYes, -2, 2},
    {"presence_penalty", kNumber, "subtracted once a token was generated", Support::kYes, -2, 2},
    {"logit_bias", kObject, "token ids to numbers from -100 to 100"},
    {"seed", kInteger, "the same seed gives the same answer"},
    {"stop", kString | kArray, "a string or up to 16 that end the answer"},
    {"n", kInteger, "answers to one prompt", Support::kYes, 1, 128},
    {"stream_options", kObject, "include_usage"},
};
constexpr Field kExtensionRows[] = {
    {"top_k", kInteger, "the k likeliest tokens; 0: all", Support::kYes, -1, 1e9},
    {"min_p", kNumber, "least share of the likeliest token's probability", Support::kYes, 0, 1},
    {"repetition_penalty", kNumber, "over prompt and answer; 1: none", Support::kYes, 0.01, 100},
    {"stop_token_ids", kArray, "token ids that end the answer"},
    {"ignore_eos", kBoolean, "go on after the model's end tokens"},
    {"priority", kInteger, "higher goes first", Support::kYes, -100, 100},
    {"timeout", kNumber, "seconds until an unfinished answer is an error", Support::kYes, 0.001, 1e9},
};
constexpr Field kLabelRows[] = {
    {"user", kString, "the client's name for its user", Support::kLabel},
    {"safety_identifier", kString, "the client's name for its user", Support::kLabel},
    {"prompt_cache_key", kString, "all prompts share the prefix cache", Support::kLabel},
    {"metadata", kObject, "the client's notes", Support::kLabel},
    {"service_tier", kString, "can be asked for", Support::kOnly, 0, -1, R"(["auto", "default"])"},
};
constexpr Field kStreamOptionRows[] = {
    {"include_usage", kBoolean, "a last event with the usage"},
    {"continuous_usage_stats", kBoolean, "with include_usage: the usage so far in every event"},
    {"include_obfuscation", kBoolean, "can be asked for", Support::kOnly, 0, -1, "[false]"},
};
constexpr std::span<const Field> kStreamOptions[] = {kStreamOptionRows};

}  // namespace

const std::span<const Field> kSamplingFields = kSamplingRows;
const std::span<const Field> kPenaltyFields = kPenaltyRows;
const std::span<const Field> kExtensionFields = kExtensionRows;
const std::span<const Field> kLabelFields = kLabelRows;

std::string read_model(const ServerState& state, const OrderedJson& body) {
  const std::string& served = state.options.model_name;
  const std::string name = string_or(body, "model", served);
  if (name == served || name == state.options.model_path) return name;
  throw HttpError(404, fmt::format("The model '{}' does not exist; this server has '{}'.", name, served), "model",
                  "model_not_found");
}

SamplingParams read_sampling(const Service& service, const OrderedJson& body) {
  SamplingParams p = service.default_sampling();
  p.temperature = number_or(body, "temperature", p.temperature);
  p.top_p = number_or(body, "top_p", p.top_p);
  if (p.top_p == 0) p.top_p = 1e-6;  // OpenAI takes it: the likeliest token alone
  p.frequency_penalty = number_or(body, "frequency_penalty", p.frequency_penalty);
  p.presence_penalty = number_or(body, "presence_penalty", p.presence_penalty);
  p.top_k = std::max(0, static_cast<int>(integer_or(body, "top_k", p.top_k)));
  p.min_p = number_or(body, "min_p", p.min_p);
  p.repetition_penalty = number_or(body, "repetition_penalty", p.repetition_penalty);
  p.ignore_eos = boolean_or(body, "ignore_eos", p.ignore_eos);
  if (find(body, "seed")) p.seed = static_cast<uint64_t>(integer_or(body, "seed", 0));
  if (const OrderedJson* bias = find(body, "logit_bias")) {
    for (const auto& [key, value] : bias->items()) {
      int32_t id = -1;
      auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
      const std::string param = "logit_bias." + key;
      if (error != std::errc() || end != key.data() + key.size() || id < 0 || id >= service.vocab_size())
        bad_value(param, fmt::format("expected a token id from 0 to {}", service.vocab_size() - 1));
      if (!value.is_number()) bad_type(param, kNumber, value);
      const double bias_value = value.get<double>();
      if (!(bias_value >= -100 && bias_value <= 100)) bad_value(param, "expected a number from -100 to 100");
      p.logit_bias[id] = static_cast<float>(bias_value);
    }
  }
  if (const OrderedJson* ids = find(body, "stop_token_ids")) {
    for (const OrderedJson& id : *ids) {
      if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= service.vocab_size())
        bad_value("stop_token_ids", fmt::format("expected token ids from 0 to {}", service.vocab_size() - 1));
      p.stop_token_ids.push_back(id.get<int32_t>());
    }
  }
  return p;
}

std::vector<std::string> read_stop(const OrderedJson& body, const char* name) {
  constexpr size_t kMaxStops = 16, kMaxBytes = 1024;
  const OrderedJson* v = find(body, name);
  if (!v) return {};
  std::vector<std::string> out;
  auto add = [&](const OrderedJson& s, const std::string& param) {
    if (!s.is_string()) bad_type(param, kString, s);
    std::string text = s.get<std::string>();
    if (text.empty() || text.size() > kMaxBytes)
      bad_value(param, fmt::format("expected 1 to {} bytes of text", kMaxBytes));
    out.push_back(std::move(text));
  };
  if (v->is_string()) {
    add(*v, name);
    return out;
  }
  if (v->size() > kMaxStops) bad_value(name, fmt::format("expected at most {} strings", kMaxStops));
  for (size_t i = 0; i < v->size(); ++i) add((*v)[i], fmt::format("{}[{}]", name, i));
  return out;
}

UsageOptions read_usage_options(OrderedJson& body) {
  auto options = body.find("stream_options");
  if (options == body.end()) return {};
  if (!boolean_or(body, "stream", false)) bad_value("stream_options", "only allowed when 'stream' is true");
  check_fields(*options, kStreamOptions, "stream_options.");
  const bool at_end = boolean_or(*options, "include_usage", false);
  return {at_end, at_end && boolean_or(*options, "continuous_usage_stats", false)};
}

double read_timeout(const OrderedJson& body) {
  return number_or(body, "timeout", 0);
}

OrderedJson usage_json(int64_t prompt, int64_t cached, int64_t completion, int64_t reasoning) {
  return {{"prompt_tokens", prompt},
          {"completion_tokens", completion},
          {"total_tokens", prompt + completion},
          {"prompt_tokens_details", {{"cached_tokens", cached}}},
          {"completion_tokens_details", {{"reasoning_tokens", reasoning}}}};
}

}  // namespace tessera::server
