// Plans from config.json alone: what ranks of a limited memory can hold, and that one is refused by name.
#include "api/parallel_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "api/rank_team.h"
#include "core/error.h"
#include "models/registry.h"

namespace tessera {
namespace {

constexpr int64_t kGiB = int64_t{1} << 30;

Checkpoint the_20b() {
  const std::string file = testing::TempDir() + "parallel_plan_20b.json";
  std::ofstream(file) << R"({"architectures": ["GptOssForCausalLM"], "attention_bias": true, "head_dim": 64,
    "hidden_act": "silu", "hidden_size": 2880, "intermediate_size": 2880, "max_position_embeddings": 131072,
    "model_type": "gpt_oss", "num_attention_heads": 64, "num_experts_per_tok": 4, "num_hidden_layers": 24,
    "num_key_value_heads": 8, "num_local_experts": 32, "rms_norm_eps": 1e-05, "sliding_window": 128,
    "rope_theta": 150000, "swiglu_limit": 7.0, "tie_word_embeddings": false, "vocab_size": 201088,
    "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn",
    "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]}})";
  return Checkpoint::from_config(file);
}

Json plan_of(LoadOptions options) {
  const Checkpoint checkpoint = the_20b();
  const std::unique_ptr<Model> model = make_model(checkpoint.config());
  WeightPlan plan;
  model->declare(plan);
  const Mesh mesh = resolve_mesh(options, checkpoint, plan, true);
  return describe_plan(
      checkpoint, *model,
      {.mesh = mesh, .dispatch = mesh.split_tokens, .on_gpus = true, .device_memory = options.device_memory});
}

TEST(ParallelPlan, EveryRankIsHeldToItsMemory) {
  const Json plan = plan_of({.device_memory = 8 * kGiB, .tp = 3});
  ASSERT_EQ(plan["ranks"].size(), 3u);
  for (const Json& rank : plan["ranks"]) {
    const int64_t left = rank["left_bytes"].get<int64_t>();
    EXPECT_GT(left, 0);
    EXPECT_LT(left + rank["weight_bytes"].get<int64_t>(), 8 * kGiB);
  }
  // Uneven shards leave unevenly: each rank has its own figure.
  EXPECT_NE(plan["ranks"][0]["left_bytes"], plan["ranks"][2]["left_bytes"]);
  EXPECT_FALSE(plan_of({.tp = 3})["ranks"][0].contains("left_bytes"));
}

TEST(ParallelPlan, ARankThatCannotHoldItsPartIsNamed) {
  try {
    plan_of({.device_memory = 7 * kGiB, .tp = 2});
    FAIL() << "accepted";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kOutOfMemory);
    EXPECT_THAT(e.what(), testing::HasSubstr("rank 0 of 2 holds 7.07 GiB"));
    EXPECT_THAT(e.what(), testing::HasSubstr("take more ranks, or raise it"));
  }
}

// The limit is a GPU's, on every rank alike.
TEST(ParallelPlan, ACpuRankHasNoSuchLimit) {
  try {
    context_of_rank({.device_memory = kGiB}, "cpu");
    FAIL() << "accepted";
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), testing::HasSubstr("--device-memory limits a GPU"));
  }
  EXPECT_EQ(context_of_rank({}, "cpu")->device().type, DeviceType::kCpu);
  EXPECT_THROW(context_of_rank({.device_memory = -1}, "cpu"), Error);
}

TEST(ParallelPlan, OwnSequencesAreToldApart) {
  const Json tp = plan_of({.ep = 2}), dp = plan_of({.ep = 2, .attention = "dp"});
  EXPECT_EQ(tp["communication"]["experts"]["kind"], "all-reduce");
  EXPECT_EQ(dp["communication"]["experts"]["kind"], "dispatch");
  EXPECT_EQ(dp["communication"]["attention"]["bytes_sent_a_token_a_layer"], 0);
  // 24 layers: a dispatch and a combine instead of two sums; rows to be unembedded, and the choice of tokens.
  EXPECT_EQ(dp["communication"]["collectives_a_step"], 24 * 2 + 2);
  EXPECT_EQ(tp["communication"]["collectives_a_step"], 24 * 2 + 1);
  EXPECT_EQ(dp["ranks"][0]["kv_heads"], 8);
  EXPECT_EQ(dp["ranks"][1]["vocabulary"], Json({100544, 100544}));
  ASSERT_EQ(dp["prediction"].size(), 2u);  // over peer memory alone
  EXPECT_EQ(dp["prediction"][0]["link"], "NVLink, peer");
  // One sequence has attention whole to read.
  EXPECT_GT(dp["prediction"][0]["ms_a_step"], tp["prediction"][2]["ms_a_step"]);
}

}  // namespace
}  // namespace tessera
