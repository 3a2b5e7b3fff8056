// How the next token is chosen, and what is reported of it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tessera/error.h"

namespace tessera {

// Names and meanings as in OpenAI's API and transformers' GenerationConfig.
struct SamplingParams {
  double temperature = 1.0;         // 0: greedy
  int top_k = 0;                    // 0: off
  double top_p = 1.0;               // smallest set of tokens with at least this probability
  double min_p = 0.0;               // tokens with at least this share of the best one's probability
  double repetition_penalty = 1.0;  // over prompt and output; divides positive logits, multiplies negative ones
  double frequency_penalty = 0.0;   // over output: subtracted once for each occurrence
  double presence_penalty = 0.0;    // over output: subtracted once
  std::optional<uint64_t> seed;     // the same seed gives the same text; unset: a fresh one each call
  std::map<int32_t, float> logit_bias;
  int logprobs = -1;              // -1: none; n >= 0: the chosen token's, with n alternatives (at most 20)
  std::vector<std::string> stop;  // text that ends the answer; not part of it
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;
  int64_t max_tokens = 0;  // 0: until the context is full

  // Throws kInvalidArgument naming the value and its range.
  void validate(int64_t vocab_size) const;
};

// Log-probabilities are of the model's own distribution, before temperature, penalties and cuts.
struct TokenLogprob {
  int32_t id = 0;
  std::string bytes;  // of the token alone; may be part of a UTF-8 character
  float logprob = 0;
  std::vector<std::pair<int32_t, float>> top;  // alternatives, best first
};

enum class FinishReason { kStop, kLength, kCancelled, kToolCall };
const char* finish_reason_name(FinishReason reason);  // "stop", "length", "cancelled", "tool_calls"

}  // namespace tessera
