// What transformers generated, through the engine: alone and among many, with any pages and chunks, after preemption
// (computed again or swapped out) and after prefix hits. The answers must be the same tokens, and a request's
// log-probabilities the same bits.
#include <gtest/gtest.h>

#include <random>

#include "engine/engine.h"
#include "engine/recording_context.h"
#include "loading/checkpoint.h"
#include "models/registry.h"
#include "support/fixtures.h"

namespace tessera {
namespace {

struct Case {
  const char* folder;
  int64_t page_size;
  int64_t chunk;
  EngineOptions engine;
  bool swap = false;
  bool recording = false;  // as on a GPU
};

std::string name_of(const testing::TestParamInfo<Case>& info) {
  const Case& c = info.param;
  return std::string(c.folder) + "_page" + std::to_string(c.page_size) + "_chunk" + std::to_string(c.chunk) +
         (c.engine.prompt_lookup > 0 ? "_lookup" : "") +
         (c.engine.policy == SchedulePolicy::kPrefillFirst ? "_prefill_first" : "") + (c.swap ? "_swap" : "") +
         (c.recording ? "_recorded" : "");
}

struct Outcome {
  std::vector<int32_t> ids;
  std::vector<float> logprobs;
  RequestResult result;
};

class EngineGolden : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    folder_ = fixture(GetParam().folder);
    if (folder_.empty()) GTEST_SKIP() << "fixture " << GetParam().folder << " is not beside the checkout";
    checkpoint_ = std::make_unique<Checkpoint>(Checkpoint::open(folder_));
    model_ = make_model(checkpoint_->config());
    WeightPlan plan;
    model_->declare(plan);
    checkpoint_->load(plan, {.dtype = DType::kF32}, pool_);
    golden_ = std::make_unique<SafetensorsFile>(SafetensorsFile::open(folder_ + "/golden.safetensors"));
  }

  std::vector<int32_t> ids(const std::string& name) const {
    const TensorInfo* info = golden_->find(name);
    EXPECT_NE(info, nullptr) << name;
    if (!info) return {};
    Tensor t = golden_->view(*info);
    std::vector<int32_t> out(static_cast<size_t>(t.numel()));
    for (size_t i = 0; i < out.size(); ++i)
      out[i] = t.dtype == DType::kI64 ? static_cast<int32_t>(t.as<int64_t>()[i]) : t.i32()[i];
    return out;
  }

  // `sequences`: how many whole contexts the cache holds; 0: enough.
  std::unique_ptr<Runner> runner(int64_t sequences) {
    RunnerOptions options{.dtype = DType::kF32,
                          .max_context = 400,
                          .max_sequences = 34,
                          .max_batch_tokens = std::max<int64_t>(GetParam().chunk, 34),
                          .max_logit_rows = 64,
                          .page_size = GetParam().page_size};
    if (sequences > 0) {
      CacheLayout layout = layout_cache(model_->cache(), false);
      options.cache_bytes = sequences * layout.pages_for(400, options.max_batch_tokens, options.page_size) *
                            layout.page_bytes(options.page_size, 4);
      if (GetParam().swap) options.swap_bytes = 8 * options.cache_bytes;
    }
    return std::make_unique<Runner>(*model_, kernels_, pool_, *context_, options);
  }

  static void submit(Engine& engine, std::vector<int32_t> prompt, size_t count, Outcome& out) {
    engine.submit({.prompt = std::move(prompt),
                   .params = {.temperature = 0, .logprobs = 0, .max_tokens = static_cast<int64_t>(count)},
                   .on_token =
                       [&out](int, int32_t id, const TokenLogprob* logprob) {
                         out.ids.push_back(id);
                         out.logprobs.push_back(logprob->logprob);
                         return true;
                       },
                   .on_end = [&out](int, const RequestResult& result) { out.result = result; }});
  }

  static void drain(Engine& engine) {
    while (engine.step()) {
    }
  }

  std::string folder_;
  ThreadPool pool_{2};
  std::unique_ptr<DeviceContext> context_ = test_context(GetParam().recording);
  std::unique_ptr<Checkpoint> checkpoint_;
  std::unique_ptr<Model> model_;
  Kernels kernels_ = Kernels::builtin(cpu_isa_from_env());
  std::unique_ptr<SafetensorsFile> golden_;
};

TEST_P(EngineGolden, SameTokensAloneAmongManyPreemptedAndAfterHits) {
  const std::vector<int32_t> input[] = {ids("input_ids.0"), ids("input_ids.1")};
  const std::vector<int32_t> want[] = {ids("greedy.0"), ids("greedy.1")};
  std::vector<float> logprobs[2];
  {
    std::unique_ptr<Runner> r = runner(0);
    Engine engine(*r, GetParam().engine);
    for (int pass = 0; pass < 2; ++pass) {  // the second pass starts from the prefix cache
      for (size_t k : {size_t{0}, size_t{1}}) {
        Outcome out;
        submit(engine, input[k], want[k].size(), out);
        drain(engine);
        EXPECT_EQ(out.ids, want[k]);
        EXPECT_EQ(out.result.cached_tokens > 0, pass == 1 && GetParam().page_size < 173);
        if (pass == 0) logprobs[k] = out.logprobs;
        EXPECT_EQ(out.logprobs, logprobs[k]) << "batch invariance";
      }
    }
  }
  std::unique_ptr<Runner> r = runner(2);
  Engine engine(*r, GetParam().engine);
  std::mt19937 random(4);
  std::vector<Outcome> others(32), golden(4);
  auto submit_other = [&](size_t i) {
    const bool grows = i % 3 == 0;  // admitted while it is short; in the end there is no room for all of these
    std::vector<int32_t> prompt(1 + random() % (grows ? 20 : 150));
    for (int32_t& id : prompt) id = static_cast<int32_t>(random() % 320);
    if (i % 4 == 1) prompt.insert(prompt.begin(), input[0].begin(), input[0].begin() + 100);
    submit(engine, std::move(prompt), (grows ? 150 : 10) + random() % 60, others[i]);
  };
  for (size_t i = 0; i < 12; ++i) submit_other(i);
  for (size_t k : {size_t{0}, size_t{1}}) submit(engine, input[k], want[k].size(), golden[k]);
  for (size_t i = 12; i < 32; ++i) submit_other(i);
  for (int i = 0; i < 40; ++i) engine.step();
  for (size_t k : {size_t{0}, size_t{1}}) submit(engine, input[k], want[k].size(), golden[2 + k]);
  drain(engine);
  int64_t preempted = 0;
  for (const Outcome& o : others) preempted += o.result.preemptions;
  for (size_t k = 0; k < 4; ++k) {
    EXPECT_EQ(golden[k].ids, want[k % 2]);
    EXPECT_EQ(golden[k].logprobs, logprobs[k % 2]) << "batch invariance";
    preempted += golden[k].result.preemptions;
  }
  EXPECT_TRUE(engine.stats().cache.hit_tokens > 0 || GetParam().page_size == 128 || GetParam().swap);
  EXPECT_EQ(engine.stats().pages_held, 0);
  EXPECT_EQ(engine.stats().swaps, GetParam().swap ? engine.stats().preemptions : 0);
  EXPECT_EQ(engine.stats().cache.swapped_in_pages > 0, GetParam().swap);
  EXPECT_EQ(r->cache().host_pool().held(), 0);
  EXPECT_TRUE(preempted > 0 || GetParam().page_size == 128 || GetParam().chunk == 512);
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const char* folder : {"gpt_oss", "gpt_oss_mxfp4", "llama", "mistral", "qwen3", "qwen3_moe"}) {
    all.push_back({folder, 16, 61, {}});
    all.push_back({folder, 32, 512, {}});
    all.push_back({folder, 128, 37, {}});
  }
  for (const char* folder : {"gpt_oss", "gpt_oss_mxfp4", "mistral", "qwen3_moe"})
    all.push_back({folder, 16, 61, {}, /*swap=*/true});
  all.push_back({"gpt_oss", 32, 100, {.prompt_lookup = 4}});
  all.push_back({"gpt_oss", 16, 100, {.policy = SchedulePolicy::kPrefillFirst}});
  all.push_back({"gpt_oss_mxfp4", 16, 61, {}, false, /*recording=*/true});
  all.push_back({"mistral", 16, 61, {}, /*swap=*/true, /*recording=*/true});
  return all;
}

INSTANTIATE_TEST_SUITE_P(Models, EngineGolden, testing::ValuesIn(cases()), name_of);

}  // namespace
}  // namespace tessera
