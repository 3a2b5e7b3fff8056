#include <gtest/gtest.h>

#include <set>

#include "core/error.h"
#include "models/registry.h"

namespace tessera {
namespace {

Json gpt_oss_20b() {
  Json config = Json::parse(R"({"architectures": ["GptOssForCausalLM"], "head_dim": 64, "hidden_size": 2880,
    "intermediate_size": 2880, "num_attention_heads": 64, "num_key_value_heads": 8, "num_hidden_layers": 24,
    "num_local_experts": 32, "num_experts_per_tok": 4, "vocab_size": 201088, "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-05, "rope_theta": 150000, "sliding_window": 128, "swiglu_limit": 7.0, "attention_bias": true,
    "rope_scaling": {"beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "original_max_position_embeddings": 4096,
                     "rope_type": "yarn", "truncate": false}})");
  for (int i = 0; i < 24; ++i) config["layer_types"].push_back(i % 2 ? "full_attention" : "sliding_attention");
  return config;
}

int64_t parameters(Model& model) {
  WeightPlan plan;
  model.declare(plan);
  int64_t total = 0;
  std::set<std::string> names;
  for (const WeightRow& row : plan.rows()) {
    if (row.kind != RowKind::kAlias) total += row.shape.numel();
    if (row.kind != RowKind::kExpertList) EXPECT_TRUE(names.insert(row.name).second) << row.name;
  }
  return total;
}

// Parameter counts as published with the models (20.91 B and 116.83 B).
TEST(GptOss, ParameterCountsAsPublished) {
  Json config = gpt_oss_20b();
  EXPECT_NEAR(static_cast<double>(parameters(*make_model(config))), 20.91e9, 0.01e9);
  config["num_hidden_layers"] = 36;
  config["num_local_experts"] = 128;
  config.erase("layer_types");
  EXPECT_NEAR(static_cast<double>(parameters(*make_model(config))), 116.83e9, 0.01e9);
}

TEST(GptOss, WindowsAlternate) {
  auto model = make_model(gpt_oss_20b());
  CacheSpec cache = model->cache();
  ASSERT_EQ(cache.layers.size(), 24u);
  EXPECT_EQ(cache.layers[0].window, 128);
  EXPECT_EQ(cache.layers[1].window, 0);
}

TEST(Models, BadConfigurationsNameTheKey) {
  auto message = [](const Json& config) -> std::string {
    try {
      make_model(config);
      return "accepted";
    } catch (const Error& e) {
      return e.what();
    }
  };
  Json config = gpt_oss_20b();
  EXPECT_NE(message({{"architectures", {"FooForCausalLM"}}}).find("GptOssForCausalLM"), std::string::npos);
  EXPECT_NE(message(Json::array()).find("object"), std::string::npos);
  for (const char* key : {"hidden_size", "num_attention_heads", "num_local_experts", "vocab_size"}) {
    for (const Json& bad : {Json(-1), Json("many"), Json(1e30), Json(2.5), Json()}) {
      Json broken = config;
      broken[key] = bad;
      EXPECT_NE(message(broken).find(key), std::string::npos) << key << " " << bad;
    }
  }
  Json broken = config;
  broken["layer_types"] = {"sliding_attention"};
  EXPECT_NE(message(broken).find("layer_types"), std::string::npos);
  broken = config;
  broken["rope_scaling"]["rope_type"] = "longrope";
  EXPECT_NE(message(broken).find("longrope"), std::string::npos);
  broken = config;
  broken["num_key_value_heads"] = 7;
  EXPECT_NE(message(broken).find("divide"), std::string::npos);
}

}  // namespace
}  // namespace tessera
