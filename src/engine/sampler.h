// Chooses a token from a row of logits, for one request. Order, as transformers: logit bias, repetition, frequency and
// presence penalties, temperature, top-k, top-p, min-p, draw. Not thread-safe.
#pragma once

#include <span>
#include <unordered_map>
#include <vector>

#include "kernels/ops.h"
#include "tessera/sampling.h"

namespace tessera {

class Sampler {
 public:
  // params must have been validated. seed is used when params has none.
  Sampler(const SamplingParams& params, int64_t vocab_size, uint64_t seed);

  // Tells the tokens of the prompt, for the repetition penalty.
  void observe_prompt(std::span<const int32_t> ids);

  // Chooses from logits [V], which it may change, and remembers the choice. Fills `report` (without bytes) when
  // params.logprobs >= 0. Ties go to the lower id. `allowed`: a TokenConstraint's mask with at least one token; empty:
  // all may come. It goes before everything but the report, which is of the model's own distribution.
  int32_t sample(std::span<float> logits, TokenLogprob* report, std::span<const uint32_t> allowed = {});

  // The same choice made by the sample op: what it must be told, for one row (the edits are appended), and the token it
  // chose. Each next_settings() counts as a draw.
  SampleSettings next_settings(std::vector<LogitEdit>& edits);
  int64_t max_edits() const { return static_cast<int64_t>(seen_.size() + params_.logit_bias.size()); }
  void observe(int32_t id);
  // Whether the next choice depends on the tokens chosen before, beside the logits.
  bool remembers() const;

 private:
  void report_logprobs(std::span<const float> logits, TokenLogprob& report) const;
  void penalize(std::span<float> logits) const;
  int32_t draw(std::span<const float> logits);
  double uniform();  // [0, 1)

  struct Seen {
    bool in_prompt = false;
    int32_t output_count = 0;
  };
  SamplingParams params_;
  uint64_t state_;
  std::unordered_map<int32_t, Seen> seen_;
  std::vector<std::pair<float, int32_t>> candidates_;  // kept to reuse its memory
};

}  // namespace tessera
