#include "engine/generator.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <random>

#include "core/error.h"

namespace tessera {

namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// -log softmax(logits)[target]
double nll_of(std::span<const float> logits, int32_t target) {
  const float best = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float l : logits) sum += std::exp(static_cast<double>(l) - best);
  return std::log(sum) + best - logits[static_cast<size_t>(target)];
}

}  // namespace

void Generator::check_ids(std::span<const int32_t> ids) const {
  if (ids.empty()) fail(ErrorCode::kInvalidArgument, "the prompt is empty; give at least one token");
  for (int32_t id : ids) {
    if (id < 0 || id >= vocab_size_)
      fail(ErrorCode::kInvalidArgument, "token id {} is outside this model's 0 to {}", id, vocab_size_ - 1);
  }
}

GenerateResult Generator::generate(const GenerateRequest& request) {
  check_ids(request.prompt);
  const auto prompt_length = static_cast<int64_t>(request.prompt.size());
  const int64_t max_context = runner_.options().max_context;
  if (prompt_length >= max_context) {
    fail(ErrorCode::kInvalidArgument, "the prompt has {} tokens and the context holds {}; shorten it or raise --max-context",
         prompt_length, max_context);
  }
  int64_t budget = max_context - prompt_length;
  if (request.params.max_tokens > 0) budget = std::min(budget, request.params.max_tokens);

  cancelled_.store(false, std::memory_order_relaxed);
  std::unique_ptr<Sequence> sequence = runner_.open();
  const uint64_t seed = request.params.seed ? 0 : (uint64_t{std::random_device{}()} << 32 | std::random_device{}());
  Sampler sampler(request.params, vocab_size_, seed);
  sampler.observe_prompt(request.prompt);

  GenerateResult result;
  auto start = std::chrono::steady_clock::now();
  std::optional<Tensor> logits;
  for (int64_t done = 0; done < prompt_length;) {
    if (cancelled_.load(std::memory_order_relaxed)) {
      result.reason = FinishReason::kCancelled;
      return result;
    }
    const int64_t chunk = std::min(prompt_length - done, runner_.options().max_batch_tokens);
    RunItem item{.sequence = sequence.get(),
                 .tokens = request.prompt.subspan(static_cast<size_t>(done), static_cast<size_t>(chunk)),
                 .want = done + chunk == prompt_length ? WantLogits::kLast : WantLogits::kNone};
    logits = runner_.run({&item, 1});
    TS_CHECK(logits.has_value(), "the cache is sized for one sequence of max_context tokens");
    done += chunk;
  }
  result.prefill_seconds = seconds_since(start);
  start = std::chrono::steady_clock::now();

  result.reason = FinishReason::kLength;
  TokenLogprob logprob;
  for (;;) {
    const bool report = request.params.logprobs >= 0;
    const int32_t id = sampler.sample({logits->f32(), static_cast<size_t>(vocab_size_)}, report ? &logprob : nullptr);
    ++result.completion_tokens;
    const bool keep_going = !request.on_token || request.on_token(id, report ? &logprob : nullptr);
    auto ends = [&](std::span<const int32_t> ids) { return std::find(ids.begin(), ids.end(), id) != ids.end(); };
    if ((!request.params.ignore_eos && ends(request.eos_ids)) || ends(request.params.stop_token_ids) || !keep_going) {
      result.reason = FinishReason::kStop;
      break;
    }
    if (result.completion_tokens >= budget) break;
    if (cancelled_.load(std::memory_order_relaxed)) {
      result.reason = FinishReason::kCancelled;
      break;
    }
    RunItem item{.sequence = sequence.get(), .tokens = {&id, 1}};
    logits = runner_.run({&item, 1});
    TS_CHECK(logits.has_value(), "the cache is sized for one sequence of max_context tokens");
  }
  result.decode_seconds = seconds_since(start);
  return result;
}

double Generator::negative_log_likelihood(std::span<const int32_t> ids) {
  check_ids(ids);
  const auto length = static_cast<int64_t>(ids.size());
  if (length > runner_.options().max_context) {
    fail(ErrorCode::kInvalidArgument, "{} tokens do not fit the context of {}; raise --max-context or cut the text", length,
         runner_.options().max_context);
  }
  std::unique_ptr<Sequence> sequence = runner_.open();
  double total = 0;
  for (int64_t done = 0; done < length;) {
    const int64_t chunk = std::min(length - done, runner_.options().max_logit_rows);
    RunItem item{.sequence = sequence.get(),
                 .tokens = ids.subspan(static_cast<size_t>(done), static_cast<size_t>(chunk)),
                 .want = WantLogits::kAll};
    std::optional<Tensor> logits = runner_.run({&item, 1});
    TS_CHECK(logits.has_value(), "the cache is sized for one sequence of max_context tokens");
    for (int64_t i = 0; i < chunk && done + i + 1 < length; ++i) {
      std::span<const float> row(logits->f32() + i * vocab_size_, static_cast<size_t>(vocab_size_));
      total += nll_of(row, ids[static_cast<size_t>(done + i + 1)]);
    }
    done += chunk;
  }
  return total;
}

}  // namespace tessera
