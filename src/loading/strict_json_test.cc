#include "loading/strict_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "loading/quantization_config.h"
#include "loading/test_files.h"

namespace tessera {
namespace {

constexpr auto kCorrupt = ErrorCode::kCorrupt;

TEST(StrictJson, AcceptsJsonAndKeepsValues) {
  EXPECT_EQ(parse_strict_json(R"({"a":[1,{"b":2},{"b":3}],"b":"x"})", "f")["a"][2]["b"], 3);
}

TEST(StrictJson, RefusesRepeatedKeysAtAnyLevel) {
  EXPECT_ERROR(parse_strict_json(R"({"a":1,"a":1})", "f"), kCorrupt, "f: key \"a\" appears twice");
  EXPECT_ERROR(parse_strict_json(R"([{"x":{"a":1,"b":2,"a":1}}])", "f"), kCorrupt, "\"a\"");
}

TEST(StrictJson, RefusesDepthNulAndRubbish) {
  EXPECT_ERROR(parse_strict_json(std::string(1000000, '['), "f"), kCorrupt, "deeper");
  EXPECT_ERROR(parse_strict_json(std::string("{}\0", 3), "f"), kCorrupt, "NUL");
  EXPECT_ERROR(parse_strict_json("", "f"), kCorrupt, "not valid JSON");
  EXPECT_ERROR(parse_strict_json("{\"\xff\":1}", "f"), kCorrupt, "not valid JSON");
}

TEST(Printable, EscapesAndCutsBetweenCharacters) {
  EXPECT_EQ(printable("a\n\x1b"), "a\\x0a\\x1b");
  std::string long_name;
  for (int i = 0; i < 200; ++i) long_name += "\xc3\xa4";
  std::string cut = printable(long_name);
  EXPECT_EQ(cut.size(), 163u);
  EXPECT_TRUE(cut.ends_with("\xa4..."));
}

std::optional<QuantizationConfig> parse(const char* json) {
  return parse_quantization_config(Json::parse(json), "config.json");
}

TEST(QuantizationConfig, AbsentNullAndMxfp4) {
  EXPECT_FALSE(parse("{}"));
  EXPECT_FALSE(parse(R"({"quantization_config":null})"));
  EXPECT_TRUE(parse(R"({"quantization_config":{"quant_method":"mxfp4","modules_to_not_convert":null}})"));
}

TEST(QuantizationConfig, OthersAreRefusedByName) {
  EXPECT_ERROR(parse(R"({"quantization_config":{"quant_method":"gptq"}})"), ErrorCode::kUnsupported, "\"gptq\"",
               "mxfp4");
  for (const char* bad : {R"({"quantization_config":1})", R"({"quantization_config":{}})",
                          R"({"quantization_config":{"quant_method":4}})",
                          R"({"quantization_config":{"quant_method":"mxfp4","modules_to_not_convert":"a"}})",
                          R"({"quantization_config":{"quant_method":"mxfp4","modules_to_not_convert":[1]}})"})
    EXPECT_ERROR(parse(bad), kCorrupt, "config.json");
}

TEST(QuantizationConfig, ExceptsModules) {
  QuantizationConfig q{"mxfp4", {"model.layers.*.self_attn", "lm_head", "model.layers.3.mlp"}};
  EXPECT_FALSE(q.converts("model.layers.11.self_attn.q_proj.weight"));
  EXPECT_FALSE(q.converts("lm_head.weight"));
  EXPECT_FALSE(q.converts("model.layers.3.mlp.experts.down_proj"));
  EXPECT_TRUE(q.converts("model.layers.30.mlp.experts.down_proj"));
  EXPECT_TRUE(q.converts("model.layers.1.self_attn_extra.weight"));
  EXPECT_TRUE(q.converts("lm_head_extra"));
  EXPECT_FALSE((QuantizationConfig{"mxfp4", {"*"}}.converts("a.b")));
  EXPECT_FALSE((QuantizationConfig{"mxfp4", {"*experts"}}.converts("model.layers.0.mlp.experts.down_proj")));
}

}  // namespace
}  // namespace tessera
