#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"

namespace tessera {

void SamplingParams::validate(int64_t vocab_size) const {
  auto in_range = [](const char* name, double value, double low, double high) {
    if (!(value >= low && value <= high))
      fail(ErrorCode::kInvalidArgument, "{} is {}; expected a number from {} to {}", name, value, low, high);
  };
  auto token = [&](const char* name, int64_t id) {
    if (id < 0 || id >= vocab_size)
      fail(ErrorCode::kInvalidArgument, "{} names token {}; this model's ids go from 0 to {}", name, id,
           vocab_size - 1);
  };
  in_range("temperature", temperature, 0, 100);
  in_range("top_k", top_k, 0, 1e9);
  in_range("top_p", top_p, 0, 1);
  if (top_p == 0) fail(ErrorCode::kInvalidArgument, "top_p is 0; expected more than 0, up to 1");
  in_range("min_p", min_p, 0, 1);
  in_range("repetition_penalty", repetition_penalty, 0.01, 100);
  in_range("frequency_penalty", frequency_penalty, -100, 100);
  in_range("presence_penalty", presence_penalty, -100, 100);
  in_range("logprobs", logprobs, -1, 20);
  in_range("max_tokens", static_cast<double>(max_tokens), 0, 1e12);
  for (const auto& [id, bias] : logit_bias) {
    token("logit_bias", id);
    in_range("logit_bias", bias, -1000, 1000);
  }
  for (int32_t id : stop_token_ids) token("stop_token_ids", id);
  for (const std::string& s : stop)
    if (s.empty()) fail(ErrorCode::kInvalidArgument, "a stop string is empty; give at least one character");
}

const char* finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kToolCall:
      return "tool_calls";
  }
  return "stop";
}

Sampler::Sampler(const SamplingParams& params, int64_t vocab_size, uint64_t seed)
    : params_(params), state_(params.seed.value_or(seed)) {
  candidates_.reserve(static_cast<size_t>(vocab_size));
}

void Sampler::observe_prompt(std::span<const int32_t> ids) {
  if (params_.repetition_penalty == 1.0) return;
  for (int32_t id : ids) seen_[id].in_prompt = true;
}

// splitmix64 (Steele, Lea, Flood 2014): one multiply-xor chain a draw, the same on every machine.
double Sampler::uniform() {
  uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  z ^= z >> 31;
  return static_cast<double>(z >> 11) * 0x1p-53;
}

void Sampler::report_logprobs(std::span<const float> logits, TokenLogprob& report) const {
  const float best = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float l : logits) sum += std::exp(static_cast<double>(l - best));
  const double log_sum = std::isfinite(best) ? best + std::log(sum) : 0;  // no distribution: all are -inf
  report.logprob = static_cast<float>(logits[static_cast<size_t>(report.id)] - log_sum);
  report.top.clear();
  std::vector<int32_t> order(logits.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
  auto count = std::min<size_t>(static_cast<size_t>(params_.logprobs), order.size());
  std::partial_sort(order.begin(), order.begin() + static_cast<long>(count), order.end(), [&](int32_t a, int32_t b) {
    float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  });
  for (size_t i = 0; i < count; ++i)
    report.top.emplace_back(order[i], static_cast<float>(logits[static_cast<size_t>(order[i])] - log_sum));
}

void Sampler::penalize(std::span<float> logits) const {
  for (const auto& [id, bias] : params_.logit_bias) logits[static_cast<size_t>(id)] += bias;
  const auto repetition = static_cast<float>(params_.repetition_penalty);
  for (const auto& [id, seen] : seen_) {
    float& l = logits[static_cast<size_t>(id)];
    l = l < 0 ? l * repetition : l / repetition;
    if (seen.output_count > 0)
      l -= static_cast<float>(params_.frequency_penalty * seen.output_count + params_.presence_penalty);
  }
}

int32_t Sampler::draw(std::span<const float> logits) {
  // Descending by logit, then ascending by id, so that the walk below is the same on every machine.
  auto before = [](const auto& a, const auto& b) {
    return a.first != b.first ? a.first > b.first : a.second < b.second;
  };
  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i)
    if (logits[i] != -std::numeric_limits<float>::infinity())
      candidates_.emplace_back(logits[i], static_cast<int32_t>(i));
  if (candidates_.empty()) candidates_.emplace_back(logits[0], 0);
  const bool top_k = params_.top_k > 0 && static_cast<size_t>(params_.top_k) < candidates_.size();
  if (top_k) {
    std::nth_element(candidates_.begin(), candidates_.begin() + params_.top_k - 1, candidates_.end(), before);
    candidates_.resize(static_cast<size_t>(params_.top_k));
  }
  if (top_k || params_.top_p < 1.0) std::sort(candidates_.begin(), candidates_.end(), before);
  const auto [best, best_id] = *std::min_element(candidates_.begin(), candidates_.end(), before);
  if (!std::isfinite(best)) return best_id;  // nothing to weigh
  double total = 0;
  for (auto& [value, id] : candidates_) {
    value = static_cast<float>(std::exp(static_cast<double>(value - best) / params_.temperature));
    total += value;
  }
  if (params_.top_p < 1.0) {
    double kept = 0;
    size_t n = 0;
    while (n < candidates_.size() && kept < params_.top_p * total) kept += candidates_[n++].first;
    candidates_.resize(std::max<size_t>(n, 1));
    total = kept;
  }
  if (params_.min_p > 0) {
    std::erase_if(candidates_, [&](const auto& c) { return c.first < params_.min_p; });  // the best one's value is 1
    total = 0;
    for (const auto& c : candidates_) total += c.first;
  }
  double target = uniform() * total;
  for (const auto& [weight, id] : candidates_) {
    target -= weight;
    if (target < 0) return id;
  }
  for (auto it = candidates_.rbegin(); it != candidates_.rend(); ++it)  // rounding left a crumb: the last possible one
    if (it->first > 0) return it->second;
  return candidates_.front().second;
}

namespace {

void forbid_others(std::span<float> logits, std::span<const uint32_t> allowed) {
  for (size_t word = 0; word * 32 < logits.size(); ++word) {
    if (allowed[word] == UINT32_MAX) continue;
    const size_t end = std::min(logits.size(), (word + 1) * 32);
    for (size_t id = word * 32; id < end; ++id)
      if (!(allowed[word] >> (id % 32) & 1)) logits[id] = -std::numeric_limits<float>::infinity();
  }
}

}  // namespace

int32_t Sampler::sample(std::span<float> logits, TokenLogprob* report, std::span<const uint32_t> allowed) {
  std::vector<float> raw;
  if (report && params_.logprobs >= 0) raw.assign(logits.begin(), logits.end());
  if (!allowed.empty()) forbid_others(logits, allowed);
  penalize(logits);
  int32_t id = params_.temperature == 0
                   ? static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin())
                   : draw(logits);
  if (report && params_.logprobs >= 0) {
    report->id = id;
    report_logprobs(raw, *report);
  }
  observe(id);
  return id;
}

bool Sampler::remembers() const {
  return params_.repetition_penalty != 1.0 || params_.frequency_penalty != 0 || params_.presence_penalty != 0;
}

void Sampler::observe(int32_t id) {
  if (remembers()) ++seen_[id].output_count;
}

SampleSettings Sampler::next_settings(std::vector<LogitEdit>& edits) {
  for (const auto& [id, seen] : seen_) {
    auto bias = params_.logit_bias.find(id);
    edits.push_back({id, bias == params_.logit_bias.end() ? 0.0f : bias->second, seen.output_count});
  }
  for (const auto& [id, bias] : params_.logit_bias)
    if (!seen_.contains(id)) edits.push_back({id, bias, -1});
  return {.temperature = params_.temperature,
          .top_p = params_.top_p,
          .min_p = params_.min_p,
          .frequency_penalty = params_.frequency_penalty,
          .presence_penalty = params_.presence_penalty,
          .uniform = params_.temperature > 0 ? uniform() : 0,
          .repetition_penalty = static_cast<float>(params_.repetition_penalty),
          .top_k = params_.top_k,
          .logprobs = params_.logprobs};
}

}  // namespace tessera
