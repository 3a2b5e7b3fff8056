#include "engine/likelihood.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace tessera {

namespace {

// -log softmax(logits)[target]
double nll_of(std::span<const float> logits, int32_t target) {
  const float best = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float l : logits) sum += std::exp(static_cast<double>(l) - best);
  return std::log(sum) + best - logits[static_cast<size_t>(target)];
}

}  // namespace

void check_token_ids(std::span<const int32_t> ids, int64_t vocab_size) {
  if (ids.empty()) fail(ErrorCode::kInvalidArgument, "the prompt is empty; give at least one token");
  for (int32_t id : ids) {
    if (id < 0 || id >= vocab_size)
      fail(ErrorCode::kInvalidArgument, "token id {} is outside this model's 0 to {}", id, vocab_size - 1);
  }
}

double negative_log_likelihood(Runner& runner, std::span<const int32_t> ids) {
  const int64_t vocab_size = runner.vocab_size(), length = static_cast<int64_t>(ids.size());
  check_token_ids(ids, vocab_size);
  if (length > runner.options().max_context) {
    fail(ErrorCode::kInvalidArgument, "{} tokens do not fit the context of {}; raise --max-context or cut the text",
         length, runner.options().max_context);
  }
  std::unique_ptr<Sequence> sequence = runner.open();
  double total = 0;
  for (int64_t done = 0; done < length;) {
    const int64_t chunk = std::min(length - done, runner.options().max_logit_rows);
    RunItem item{.sequence = sequence.get(),
                 .tokens = ids.subspan(static_cast<size_t>(done), static_cast<size_t>(chunk)),
                 .want = WantLogits::kAll};
    std::optional<Tensor> logits = runner.run({&item, 1});
    TS_CHECK(logits.has_value(), "the cache holds one sequence of max_context tokens");
    for (int64_t i = 0; i < chunk && done + i + 1 < length; ++i) {
      std::span<const float> row(logits->f32() + i * vocab_size, static_cast<size_t>(vocab_size));
      total += nll_of(row, ids[static_cast<size_t>(done + i + 1)]);
    }
    done += chunk;
  }
  return total;
}

}  // namespace tessera
