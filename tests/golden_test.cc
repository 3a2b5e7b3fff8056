// Whole models against the tensors that transformers computed, layer by layer, so that a difference is found where it
// arises. Bounds: 2e-5 of a tensor's largest value in F32 activations.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "core/json.h"
#include "engine/engine.h"
#include "engine/likelihood.h"
#include "engine/placement.h"
#include "loading/checkpoint.h"
#include "models/registry.h"
#include "support/fixtures.h"

namespace tessera {
namespace {

struct Case {
  const char* folder;
  bool reference;  // plain-loop kernels instead of the best ones
  bool dequantize;
  int64_t page_size;
  int64_t chunk;  // longest prefill step
  const char* device = "cpu";
};

std::string name_of(const testing::TestParamInfo<Case>& info) {
  const Case& c = info.param;
  return std::string(c.folder) + "_" + (c.reference ? "reference" : c.device) + (c.dequantize ? "_dequantized" : "") +
         "_page" + std::to_string(c.page_size) + "_chunk" + std::to_string(c.chunk);
}

class Golden : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    const Case& c = GetParam();
    folder_ = fixture(c.folder);
    if (folder_.empty()) GTEST_SKIP() << "fixture " << c.folder << " is not beside the checkout";
    checkpoint_ = std::make_unique<Checkpoint>(Checkpoint::open(folder_));
    model_ = make_model(checkpoint_->config());
    WeightPlan plan;
    model_->declare(plan);
    checkpoint_->load(plan, {.dtype = DType::kF32, .dequantize = c.dequantize}, pool_);
    context_ = make_context(c.device);
    if (context_->device().type == DeviceType::kCuda)
      weights_ =
          place_weights(plan, {.activations = DType::kF32}, *context_, pool_,
                        [this](const void* source, int64_t bytes, char* to) { checkpoint_->read(source, bytes, to); });
    kernels_ = c.reference ? Kernels::reference() : Kernels::builtin(cpu_isa_from_env());
    runner_ = std::make_unique<Runner>(*model_, kernels_, pool_, *context_,
                                       RunnerOptions{.dtype = DType::kF32,
                                                     .max_context = 512,
                                                     .max_batch_tokens = c.chunk,
                                                     .max_logit_rows = c.chunk,
                                                     .page_size = c.page_size});
    golden_ = std::make_unique<SafetensorsFile>(SafetensorsFile::open(folder_ + "/golden.safetensors"));
  }

  Tensor golden(const std::string& name) const {
    const TensorInfo* info = golden_->find(name);
    EXPECT_NE(info, nullptr) << name;
    return info ? golden_->view(*info) : Tensor{};
  }
  std::vector<int32_t> ids(const std::string& name) const {
    Tensor t = golden(name);
    std::vector<int32_t> out(static_cast<size_t>(t.numel()));
    for (size_t i = 0; i < out.size(); ++i) {
      out[i] = t.dtype == DType::kI64 ? static_cast<int32_t>(t.as<int64_t>()[i]) : t.as<int32_t>()[i];
    }
    return out;
  }
  // Rows [first, first + rows) of the golden tensor against `values`.
  void expect_close(const std::string& name, const float* values, int64_t first, int64_t rows) const {
    Tensor want = golden(name);
    const int64_t width = want.dim(1);
    float largest = 0, worst = 0;
    for (int64_t i = 0; i < want.numel(); ++i) largest = std::max(largest, std::abs(want.f32()[i]));
    for (int64_t i = 0; i < rows * width; ++i) {
      float difference = std::abs(values[i] - want.f32()[first * width + i]);
      worst = std::isnan(difference) ? INFINITY : std::max(worst, difference);
    }
    EXPECT_LE(worst, 2e-5f * largest) << name;
  }
  void expect_same_routing(int layer, const Tensor& indices, int64_t first) const;

  std::string folder_;
  ThreadPool pool_{2};
  std::unique_ptr<DeviceContext> context_;
  std::unique_ptr<Checkpoint> checkpoint_;
  std::unique_ptr<Model> model_;
  Arena weights_;
  Kernels kernels_;
  std::unique_ptr<Runner> runner_;
  std::unique_ptr<SafetensorsFile> golden_;
};

// Choices are equal wherever the golden logits differ by more than 4e-4; closer ones may be swapped.
void Golden::expect_same_routing(int layer, const Tensor& indices, int64_t first) const {
  Tensor want = golden("router_indices." + std::to_string(layer));
  Tensor logits = golden("router_logits." + std::to_string(layer));
  const int64_t active = indices.dim(1), experts = logits.dim(1);
  for (int64_t t = 0; t < indices.dim(0); ++t) {
    const float* row = logits.f32() + (first + t) * experts;
    for (int64_t a = 0; a < active; ++a) {
      const int64_t at = (first + t) * active + a;
      int64_t expected = want.dtype == DType::kI64 ? want.as<int64_t>()[at] : want.as<int32_t>()[at];
      int32_t got = indices.i32()[t * active + a];
      if (got != expected)
        EXPECT_LE(std::abs(row[got] - row[expected]), 4e-4f) << "layer " << layer << " token " << first + t;
    }
  }
}

TEST_P(Golden, LogitsAndIntermediates) {
  for (int k : {0, 1}) {
    std::vector<int32_t> input = ids("input_ids." + std::to_string(k));
    std::unique_ptr<Sequence> sequence = runner_->open();
    int64_t done = 0;
    std::map<std::string, int> compared;
    Probe probe = [&](std::string_view name, int layer, const Tensor& value) {
      std::string full = std::string(name) + (layer >= 0 ? "." + std::to_string(layer) : "");
      if (k == 0 || !golden_->find(full)) return;
      ++compared[std::string(name)];
      if (name == "router_indices") {
        expect_same_routing(layer, value, done);
      } else if (name != "router_weights") {
        expect_close(full, value.f32(), done, value.dim(0));
      }
    };
    while (done < static_cast<int64_t>(input.size())) {
      auto chunk = std::min<int64_t>(GetParam().chunk, static_cast<int64_t>(input.size()) - done);
      RunItem item{sequence.get(), std::span(input).subspan(static_cast<size_t>(done), static_cast<size_t>(chunk)),
                   WantLogits::kAll};
      std::optional<Tensor> logits = runner_->run({&item, 1}, &probe);
      ASSERT_TRUE(logits.has_value());
      expect_close("logits." + std::to_string(k), logits->f32(), done, chunk);
      done += chunk;
    }
    if (k == 1) {
      EXPECT_GT(compared["hidden"], 0);
      EXPECT_GT(compared["attention"], 0);
      EXPECT_GT(compared["hidden.embed"] * compared["hidden.norm"], 0);
    }
  }
}

TEST_P(Golden, GreedyTokens) {
  for (int k : {0, 1}) {
    std::vector<int32_t> input = ids("input_ids." + std::to_string(k)), want = ids("greedy." + std::to_string(k)), got;
    Engine engine(*runner_, {});
    engine.submit({.prompt = input,
                   .params = {.temperature = 0, .max_tokens = static_cast<int64_t>(want.size())},
                   .on_token = [&](int, int32_t id, const TokenLogprob*) {
                     got.push_back(id);
                     return true;
                   }});
    while (engine.step()) {
    }
    EXPECT_EQ(got, want);
  }
}

TEST_P(Golden, MeanNegativeLogLikelihood) {
  Json golden = read_json_file(folder_ + "/golden.json");
  for (int k : {0, 1}) {
    std::vector<int32_t> input = ids("input_ids." + std::to_string(k));
    double mean = negative_log_likelihood(*runner_, input) / static_cast<double>(input.size() - 1);
    EXPECT_NEAR(mean, golden["mean_nll." + std::to_string(k)].get<double>(), 2e-5);
  }
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const char* folder : {"gpt_oss", "gpt_oss_mxfp4", "llama", "mistral", "qwen3", "qwen3_moe"}) {
    all.push_back({folder, true, false, 32, 512});
    all.push_back({folder, false, false, 32, 512});
    all.push_back({folder, false, false, 16, 37});
    all.push_back({folder, false, false, 128, 64});
    all.push_back({folder, false, false, 1, 1});
  }
  all.push_back({"gpt_oss_mxfp4", false, true, 32, 512});
  if (!cuda_devices(nullptr).empty()) {
    for (const char* folder : {"gpt_oss", "gpt_oss_mxfp4", "llama", "mistral", "qwen3", "qwen3_moe"}) {
      all.push_back({folder, false, false, 32, 512, "cuda"});
      all.push_back({folder, false, false, 16, 37, "cuda"});
    }
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(Models, Golden, testing::ValuesIn(cases()), name_of);

}  // namespace
}  // namespace tessera
