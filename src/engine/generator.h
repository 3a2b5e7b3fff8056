// Runs one request: prefill in chunks, then a token at a time until a stop token, the length or the caller ends it. Used
// by one thread; cancel() from any.
#pragma once

#include <atomic>
#include <functional>

#include "engine/runner.h"
#include "engine/sampler.h"

namespace tessera {

struct GenerateRequest {
  std::span<const int32_t> prompt;
  SamplingParams params;             // validated
  std::span<const int32_t> eos_ids;  // end tokens of the model; ignored with params.ignore_eos
  // Called for each token, stop tokens included; false ends the request (kStop).
  std::function<bool(int32_t id, const TokenLogprob* logprob)> on_token;
};

struct GenerateResult {
  FinishReason reason = FinishReason::kStop;
  int64_t completion_tokens = 0;
  double prefill_seconds = 0;
  double decode_seconds = 0;
};

class Generator {
 public:
  explicit Generator(Runner& runner, int64_t vocab_size) : runner_(runner), vocab_size_(vocab_size) {}

  // Throws kInvalidArgument: empty prompt, prompt that fills the context, token id out of range.
  GenerateResult generate(const GenerateRequest& request);

  // Sum of -log p(ids[i] | ids[0..i)) for i = 1..n-1, in double.
  double negative_log_likelihood(std::span<const int32_t> ids);

  void cancel() noexcept { cancelled_.store(true, std::memory_order_relaxed); }

 private:
  void check_ids(std::span<const int32_t> ids) const;

  Runner& runner_;
  int64_t vocab_size_;
  std::atomic<bool> cancelled_{false};
};

}  // namespace tessera
