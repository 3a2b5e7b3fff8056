#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

namespace tessera {
namespace {

std::vector<float> logits() {
  return {1.0f, 3.0f, 2.0f, 3.0f, -1.0f, 0.0f};
}

int32_t once(const SamplingParams& params, std::vector<float> l = logits()) {
  return Sampler(params, static_cast<int64_t>(l.size()), 1).sample(l, nullptr);
}

std::map<int32_t, int> histogram(SamplingParams params, int draws) {
  params.seed = 11;
  Sampler sampler(params, 6, 0);
  std::map<int32_t, int> counts;
  for (int i = 0; i < draws; ++i) {
    std::vector<float> l = logits();
    ++counts[sampler.sample(l, nullptr)];
  }
  return counts;
}

TEST(Sampler, GreedyTakesTheFirstBest) {
  EXPECT_EQ(once({.temperature = 0}), 1);
}

TEST(Sampler, SameSeedSameTokens) {
  SamplingParams params;
  params.seed = 42;
  Sampler a(params, 6, 1), b(params, 6, 2);
  for (int i = 0; i < 200; ++i) {
    std::vector<float> x = logits(), y = logits();
    EXPECT_EQ(a.sample(x, nullptr), b.sample(y, nullptr));
  }
}

TEST(Sampler, DrawsFollowTheSoftmax) {
  const int draws = 60000;
  auto counts = histogram({.temperature = 2.0}, draws);
  double total = 0;
  for (float l : logits()) total += std::exp(l / 2.0);
  for (int32_t id = 0; id < 6; ++id) {
    double p = std::exp(logits()[static_cast<size_t>(id)] / 2.0) / total;
    EXPECT_NEAR(counts[id], p * draws, 5 * std::sqrt(p * draws)) << id;
  }
}

TEST(Sampler, Cuts) {
  auto only = [](const std::map<int32_t, int>& counts, std::vector<int32_t> ids) {
    for (auto [id, n] : counts) EXPECT_NE(std::find(ids.begin(), ids.end(), id), ids.end()) << id;
    EXPECT_EQ(counts.size(), ids.size());
  };
  only(histogram({.top_k = 3}, 3000), {1, 2, 3});
  only(histogram({.top_k = 1}, 100), {1});
  only(histogram({.top_p = 0.7}, 3000), {1, 3});
  only(histogram({.top_p = 1e-9}, 100), {1});
  only(histogram({.min_p = 0.3}, 3000), {1, 2, 3});
  only(histogram({.temperature = 1e-3}, 500), {1, 3});
}

TEST(Sampler, BiasAndPenalties) {
  EXPECT_EQ(once({.temperature = 0, .logit_bias = {{4, 100.0f}}}), 4);
  SamplingParams params{.temperature = 0, .repetition_penalty = 2.0};
  Sampler repeated(params, 6, 1);
  repeated.observe_prompt(std::vector<int32_t>{1});
  std::vector<float> l = logits();
  EXPECT_EQ(repeated.sample(l, nullptr), 3);  // 1 fell to 1.5
  l = logits();
  EXPECT_EQ(repeated.sample(l, nullptr), 2);  // and 3 too

  Sampler frequency({.temperature = 0, .frequency_penalty = 0.6}, 6, 1);
  std::vector<int32_t> order;
  for (int i = 0; i < 4; ++i) {
    l = logits();
    order.push_back(frequency.sample(l, nullptr));
  }
  EXPECT_EQ(order, (std::vector<int32_t>{1, 3, 1, 3}));
  Sampler presence({.temperature = 0, .presence_penalty = 1.5}, 6, 1);
  order.clear();
  for (int i = 0; i < 4; ++i) {
    l = logits();
    order.push_back(presence.sample(l, nullptr));
  }
  EXPECT_EQ(order, (std::vector<int32_t>{1, 3, 2, 1}));
}

TEST(Sampler, LogprobsAreTheModelsOwn) {
  SamplingParams params{.temperature = 0, .logit_bias = {{0, 50.0f}}, .logprobs = 2};
  std::vector<float> l = logits();
  TokenLogprob report;
  EXPECT_EQ(Sampler(params, 6, 1).sample(l, &report), 0);
  double total = 0;
  for (float x : logits()) total += std::exp(x);
  EXPECT_EQ(report.id, 0);
  EXPECT_NEAR(report.logprob, 1.0 - std::log(total), 1e-6);
  ASSERT_EQ(report.top.size(), 2u);
  EXPECT_EQ(report.top[0].first, 1);
  EXPECT_EQ(report.top[1].first, 3);
  EXPECT_NEAR(report.top[0].second, 3.0 - std::log(total), 1e-6);
}

TEST(SamplingParams, ImpossibleValuesAreNamed) {
  auto refused = [](const SamplingParams& params, const char* name) {
    try {
      params.validate(6);
      ADD_FAILURE() << name << " accepted";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kInvalidArgument);
      EXPECT_NE(std::string(e.what()).find(name), std::string::npos) << e.what();
    }
  };
  refused({.temperature = -1}, "temperature");
  refused({.temperature = std::nan("")}, "temperature");
  refused({.top_k = -1}, "top_k");
  refused({.top_p = 0}, "top_p");
  refused({.top_p = 1.1}, "top_p");
  refused({.min_p = -0.1}, "min_p");
  refused({.repetition_penalty = 0}, "repetition_penalty");
  refused({.logit_bias = {{6, 1.0f}}}, "logit_bias");
  refused({.logprobs = 21}, "logprobs");
  refused({.stop = {""}}, "stop");
  refused({.stop_token_ids = {-1}}, "stop_token_ids");
  refused({.max_tokens = -1}, "max_tokens");
  SamplingParams{}.validate(6);
}

}  // namespace
}  // namespace tessera
