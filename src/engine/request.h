// What a caller asks of the engine, and what it learns when the request ends.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/token_constraint.h"
#include "tessera/error.h"
#include "tessera/sampling.h"

namespace tessera {

// Times are seconds on the engine's clock (Engine::now).
struct RequestResult {
  bool failed = false;
  ErrorCode error_code = ErrorCode::kCancelled;
  std::string error;                          // why it failed
  FinishReason reason = FinishReason::kStop;  // when it did not
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;  // of the prompt, taken from the prefix cache
  int64_t completion_tokens = 0;
  int64_t preemptions = 0;
  int64_t drafted_tokens = 0, accepted_tokens = 0;  // by prompt lookup
  double created = 0, started = 0, first_token = 0, ended = 0;
};

// Callbacks run on the engine's thread, between steps; they must not wait for it. One that throws ends its own request
// with the error. `sample` goes from 0 to samples - 1.
struct Request {
  std::vector<int32_t> prompt;
  SamplingParams params;
  std::vector<int32_t> eos_ids;                       // end tokens of the model; ignored with params.ignore_eos
  int samples = 1;                                    // answers to one prompt; sample k is drawn with seed + k
  int priority = 0;                                   // -100 to 100, higher goes first
  double timeout_seconds = 0;                         // from submission to the last token; 0: none
  std::shared_ptr<const TokenConstraint> constraint;  // cloned for each sample; null: none
  // For each token, end tokens included; false ends the sample (kStop).
  std::function<bool(int sample, int32_t id, const TokenLogprob* logprob)> on_token;
  // Once for each sample, last.
  std::function<void(int sample, const RequestResult& result)> on_end;
};

}  // namespace tessera
