#include "api/device_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "core/error.h"

namespace tessera {
namespace {

constexpr int64_t kGiB = int64_t{1} << 30;

// config.json of gpt-oss-120b, as published.
std::string config_of_120b() {
  static const std::string path = [] {
    const std::string file = testing::TempDir() + "device_plan_120b.json";
    std::ofstream(file) << R"({"architectures": ["GptOssForCausalLM"], "attention_bias": true, "head_dim": 64,
      "hidden_act": "silu", "hidden_size": 2880, "intermediate_size": 2880, "max_position_embeddings": 131072,
      "model_type": "gpt_oss", "num_attention_heads": 64, "num_experts_per_tok": 4, "num_hidden_layers": 36,
      "num_key_value_heads": 8, "num_local_experts": 128, "rms_norm_eps": 1e-05, "sliding_window": 128,
      "rope_theta": 150000, "swiglu_limit": 7.0, "tie_word_embeddings": false, "vocab_size": 201088,
      "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn",
      "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]}})";
    return file;
  }();
  return path;
}

DevicePlanRequest on_a_card(int64_t bytes) {
  return {.device_map = "auto",
          .forecast = {.context = 8192, .gpu = true},
          .device = "a card",
          .device_total = bytes,
          .device_free = bytes - kDriverBytes,
          .host_free = 100 * kGiB,
          .rates = {.device = 3e12, .host = 1e11, .disk = 2e9, .layer_seconds = 28e-6, .handover_seconds = 25e-6}};
}

std::string refusal(const DevicePlanRequest& request) {
  try {
    plan_devices(config_of_120b(), request);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kOutOfMemory);
    return e.what();
  }
  return "";
}

TEST(DevicePlan, The120bOn24GiB) {
  const DevicePlan plan = plan_devices(config_of_120b(), on_a_card(24 * kGiB));
  const auto on_gpu = std::count(plan.map.begin(), plan.map.end(), Place::kDevice);
  EXPECT_GE(on_gpu, 6);
  EXPECT_LE(on_gpu, 11);
  EXPECT_EQ(std::count(plan.map.begin(), plan.map.end(), Place::kHost), 36 - on_gpu);
  EXPECT_LE(device_bytes_of(plan.map, plan.demand), plan.demand.device_bytes);
  // 4 experts of 3 x 2880 x 2880 values in 17/32 bytes, 52.9 MB, and their biases.
  const double layer = static_cast<double>(plan.token.host_bytes) / static_cast<double>(36 - on_gpu);
  EXPECT_NEAR(layer, 53e6, 0.4e6);
  EXPECT_NEAR(plan.host_bound_seconds(), static_cast<double>(plan.token.host_bytes) / 1e11, 1e-9);
  EXPECT_GT(plan.seconds.total(), plan.host_bound_seconds());
  EXPECT_THAT(device_plan_text(plan), testing::HasSubstr("bound by main memory"));
  EXPECT_EQ(describe_device_plan(plan)["cpu"]["layers"], 36 - on_gpu);
}

TEST(DevicePlan, ACpuHasMemoryAndNoGpu) {
  DevicePlanRequest request = on_a_card(24 * kGiB);
  request.cpu = true;
  const std::string text = device_plan_text(plan_devices(config_of_120b(), request));
  EXPECT_THAT(text, testing::HasSubstr("  memory "));
  EXPECT_EQ(text.find("gpu", text.find('\n')), std::string::npos);  // the first line has the map, as one is written
  EXPECT_THAT(text, testing::Not(testing::HasSubstr("handing over")));
}

TEST(DevicePlan, LittleMainMemorySendsLayersToDisk) {
  DevicePlanRequest request = on_a_card(24 * kGiB);
  request.host_free = 20 * kGiB;
  const DevicePlan plan = plan_devices(config_of_120b(), request);
  EXPECT_EQ(plan.map.back(), Place::kDisk);
  EXPECT_LE(bytes_in(plan.map, plan.demand, Place::kHost), 20 * kGiB);
  EXPECT_GT(plan.seconds.disk, 0);
}

TEST(DevicePlan, AnAskedCacheTakesLayersOffTheDevice) {
  DevicePlanRequest request = on_a_card(24 * kGiB);
  const int64_t before = bytes_in(plan_devices(config_of_120b(), request).map,
                                  plan_devices(config_of_120b(), request).demand, Place::kDevice);
  request.cache_memory = 6 * kGiB;
  const DevicePlan plan = plan_devices(config_of_120b(), request);
  EXPECT_LT(bytes_in(plan.map, plan.demand, Place::kDevice), before);
}

TEST(DevicePlan, ACardThatCannotHoldTheRestIsRefusedWithOneThatCan) {
  const std::string why = refusal(on_a_card(4 * kGiB));
  EXPECT_THAT(why, testing::HasSubstr("even without experts"));
  EXPECT_THAT(why, testing::HasSubstr("a card of 8 GB"));
}

TEST(DevicePlan, AMapThatDoesNotFitIsRefusedWithOneThatDoes) {
  DevicePlanRequest request = on_a_card(24 * kGiB);
  request.device_map = "", request.cpu_moe = 3;
  EXPECT_THAT(refusal(request), testing::HasSubstr("--cpu-moe 2"));
}

}  // namespace
}  // namespace tessera
