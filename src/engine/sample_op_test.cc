// The sample op's definition against the sampler: the same tokens from the same logits, settings and seed.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "engine/sampler.h"
#include "kernels/table.h"

namespace tessera {
namespace {

constexpr int64_t kVocab = 1500;

// splitmix64's next number, as Sampler draws it.
double uniform_of(uint64_t& state) {
  uint64_t z = (state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  z ^= z >> 31;
  return static_cast<double>(z >> 11) * 0x1p-53;
}

SamplingParams random_params(std::mt19937& random) {
  auto pick = [&](std::initializer_list<double> values) { return *(values.begin() + random() % values.size()); };
  SamplingParams p;
  p.temperature = pick({0, 0.1, 0.7, 1, 1, 3});
  p.top_k = static_cast<int>(pick({0, 0, 1, 40, 1200, 5000}));
  p.top_p = pick({1, 1, 0.95, 0.5, 0.01});
  p.min_p = pick({0, 0, 0.05, 0.9});
  p.repetition_penalty = pick({1, 1.3, 0.8});
  p.frequency_penalty = pick({0, 0.4});
  p.presence_penalty = pick({0, -0.7});
  for (int i = static_cast<int>(random() % 3); i > 0; --i) p.logit_bias[static_cast<int32_t>(random() % kVocab)] = 2.5f;
  p.logprobs = static_cast<int>(pick({-1, 0, 5, 20}));
  p.seed = random();
  return p;
}

// What the engine tells the op about a request whose answer so far is `output`.
struct Told {
  SampleSettings settings;
  std::vector<LogitEdit> edits;
};
Told tell(const SamplingParams& p, std::span<const int32_t> prompt, std::span<const int32_t> output) {
  Told told;
  told.settings = {.temperature = p.temperature,
                   .top_p = p.top_p,
                   .min_p = p.min_p,
                   .frequency_penalty = p.frequency_penalty,
                   .presence_penalty = p.presence_penalty,
                   .repetition_penalty = static_cast<float>(p.repetition_penalty),
                   .top_k = p.top_k,
                   .logprobs = p.logprobs};
  std::map<int32_t, LogitEdit> edits;
  auto at = [&](int32_t id) -> LogitEdit& {
    edits[id].token = id;
    return edits[id];
  };
  for (auto [id, bias] : p.logit_bias) at(id).bias = bias;
  if (p.repetition_penalty != 1)
    for (int32_t id : prompt) at(id).count = 0;
  for (int32_t id : output) at(id).count = std::max(at(id).count, 0) + 1;
  for (auto& [id, e] : edits) told.edits.push_back(e);
  return told;
}

TEST(SampleOp, ChoosesWhatTheSamplerChooses) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  const Kernels kernels = Kernels::reference();
  Stream stream;
  for (int request = 0; request < 60; ++request) {
    const SamplingParams params = random_params(random);
    Sampler sampler(params, kVocab, 0);
    uint64_t state = *params.seed;
    std::vector<int32_t> prompt, output;
    for (int i = 0; i < 30; ++i) prompt.push_back(static_cast<int32_t>(random() % kVocab));
    sampler.observe_prompt(prompt);
    std::normal_distribution<float> value(0, std::ldexp(1.0f, static_cast<int>(random() % 5) - 1));
    for (int step = 0; step < 12; ++step) {
      std::vector<float> logits(kVocab), mine;
      for (float& l : logits) l = std::round(value(random) * 8) / 8;  // with ties
      mine = logits;
      Told told = tell(params, prompt, output);
      if (params.temperature > 0) told.settings.uniform = uniform_of(state);
      int32_t start[2] = {0, static_cast<int32_t>(told.edits.size())}, id = -1, top_ids[kMaxSampleLogprobs];
      float logprob = 0, top_logprobs[kMaxSampleLogprobs];
      SampleArgs a;
      a.logits = {mine.data(), {1, kVocab}, DType::kF32, {}};
      a.settings = {&told.settings, {1, sizeof(SampleSettings)}, DType::kU8, {}};
      a.edit_start = {start, {2}, DType::kI32, {}};
      a.edits = {told.edits.data(), {start[1] * int64_t{sizeof(LogitEdit)}}, DType::kU8, {}};
      a.any_logprobs = true;
      a.ids = {&id, {1}, DType::kI32, {}};
      a.logprobs = {&logprob, {1}, DType::kF32, {}};
      a.top_ids = {top_ids, {1, kMaxSampleLogprobs}, DType::kI32, {}};
      a.top_logprobs = {top_logprobs, {1, kMaxSampleLogprobs}, DType::kF32, {}};
      kernels.sample.rows[0].launch(a, stream);
      TokenLogprob report;
      ASSERT_EQ(id, sampler.sample(logits, &report)) << "request " << request << ", step " << step;
      output.push_back(id);
      if (params.logprobs < 0) continue;
      EXPECT_NEAR(logprob, report.logprob, 1e-5);
      ASSERT_EQ(report.top.size(), static_cast<size_t>(params.logprobs));
      for (size_t i = 0; i < report.top.size(); ++i) {
        EXPECT_EQ(top_ids[i], report.top[i].first);
        EXPECT_NEAR(top_logprobs[i], report.top[i].second, 1e-5);
      }
    }
  }
}

TEST(SampleOp, NoFiniteLogitHasNoDistribution) {
  const float none = -std::numeric_limits<float>::infinity();
  const Kernels kernels = Kernels::reference();
  Stream stream;
  float logits[3] = {none, none, none}, logprob = 7, top_logprobs[kMaxSampleLogprobs];
  int32_t id = -1, top_ids[kMaxSampleLogprobs];
  SampleSettings settings{.temperature = 0, .logprobs = 2};
  SampleArgs a;
  a.logits = {logits, {1, 3}, DType::kF32, {}};
  a.settings = {&settings, {1, sizeof settings}, DType::kU8, {}};
  a.any_logprobs = true;
  a.ids = {&id, {1}, DType::kI32, {}};
  a.logprobs = {&logprob, {1}, DType::kF32, {}};
  a.top_ids = {top_ids, {1, kMaxSampleLogprobs}, DType::kI32, {}};
  a.top_logprobs = {top_logprobs, {1, kMaxSampleLogprobs}, DType::kF32, {}};
  kernels.sample.rows[0].launch(a, stream);
  EXPECT_EQ(id, 0);
  EXPECT_EQ(logprob, none);
  EXPECT_EQ(top_logprobs[1], none);
  TokenLogprob report;
  Sampler sampler({.temperature = 0, .logprobs = 2}, 3, 0);
  EXPECT_EQ(sampler.sample(logits, &report), 0);
  EXPECT_EQ(report.logprob, none);
}

TEST(SampleOp, Masks) {
  const Kernels kernels = Kernels::reference();
  Stream stream;
  float logits[2][40] = {};
  logits[0][7] = 5, logits[0][33] = 4, logits[1][7] = 5;
  int32_t mask[2] = {~(1 << 7), ~0}, ids[2] = {-1, -1};
  SampleSettings settings[2] = {{.temperature = 0, .mask = 0}, {.temperature = 0}};
  SampleArgs a;
  a.logits = {logits, {2, 40}, DType::kF32, {}};
  a.settings = {settings, {2, sizeof(SampleSettings)}, DType::kU8, {}};
  a.masks = {mask, {1, 2}, DType::kI32, {}};
  a.ids = {ids, {2}, DType::kI32, {}};
  kernels.sample.rows[0].launch(a, stream);
  EXPECT_EQ(ids[0], 33);
  EXPECT_EQ(ids[1], 7);
}

}  // namespace
}  // namespace tessera
