// config.json is foreign: any value anywhere in it gives a model or one clear Error, in bounded memory and time.
#include "support/config_property.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace tessera {
namespace {

const char* const kConfigs[] = {
    R"({"architectures":["GptOssForCausalLM"],"model_type":"gpt_oss","attention_bias":true,"head_dim":32,"hidden_act":"silu",
        "hidden_size":96,"intermediate_size":32,"layer_types":["sliding_attention","full_attention"],"max_position_embeddings":1024,
        "num_attention_heads":4,"num_experts_per_tok":4,"num_hidden_layers":2,"num_key_value_heads":2,"num_local_experts":8,
        "rms_norm_eps":1e-05,"rope_scaling":{"beta_fast":32.0,"beta_slow":1.0,"factor":8.0,"original_max_position_embeddings":128,
        "rope_type":"yarn","truncate":false},"rope_theta":150000,"sliding_window":64,"swiglu_limit":7.0,"tie_word_embeddings":false,
        "vocab_size":320,"quantization_config":{"quant_method":"mxfp4","modules_to_not_convert":["lm_head"]}})",
    R"({"architectures":["LlamaForCausalLM"],"model_type":"llama","attention_bias":false,"hidden_act":"silu","hidden_size":64,
        "intermediate_size":176,"max_position_embeddings":1024,"mlp_bias":false,"num_attention_heads":4,"num_hidden_layers":3,
        "num_key_value_heads":2,"rms_norm_eps":1e-05,"rope_scaling":{"factor":8.0,"high_freq_factor":4.0,"low_freq_factor":1.0,
        "original_max_position_embeddings":128,"rope_type":"llama3"},"rope_theta":500000.0,"tie_word_embeddings":false,"vocab_size":320})",
    R"({"architectures":["MistralForCausalLM"],"model_type":"mistral","head_dim":32,"hidden_act":"silu","hidden_size":64,
        "intermediate_size":160,"max_position_embeddings":1024,"num_attention_heads":4,"num_hidden_layers":4,"num_key_value_heads":1,
        "rms_norm_eps":1e-05,"rope_parameters":{"rope_theta":10000.0,"rope_type":"default"},"sliding_window":64,"vocab_size":320})",
    R"({"architectures":["Qwen3ForCausalLM"],"model_type":"qwen3","head_dim":32,"hidden_act":"silu","hidden_size":64,
        "intermediate_size":160,"max_position_embeddings":1024,"max_window_layers":4,"num_attention_heads":4,"num_hidden_layers":4,
        "num_key_value_heads":2,"rms_norm_eps":1e-06,"rope_scaling":null,"rope_theta":1000000,"sliding_window":null,
        "tie_word_embeddings":true,"use_sliding_window":false,"vocab_size":320})",
    R"({"architectures":["Qwen3MoeForCausalLM"],"model_type":"qwen3_moe","decoder_sparse_step":1,"head_dim":32,"hidden_act":"silu",
        "hidden_size":64,"intermediate_size":160,"max_position_embeddings":1024,"mlp_only_layers":[1],"moe_intermediate_size":48,
        "norm_topk_prob":true,"num_attention_heads":4,"num_experts":8,"num_experts_per_tok":3,"num_hidden_layers":3,
        "num_key_value_heads":2,"rms_norm_eps":1e-06,"rope_theta":1000000.0,"tie_word_embeddings":false,"vocab_size":320})"};

const char* const kValues[] = {"0",
                               "1",
                               "-1",
                               "3",
                               "33",
                               "4096",
                               "65536",
                               "2147483647",
                               "2147483648",
                               "9223372036854775807",
                               "18446744073709551615",
                               "-9223372036854775808",
                               "0.5",
                               "1e300",
                               "-1e300",
                               "1e-320",
                               "null",
                               "true",
                               "false",
                               "\"\"",
                               "\"x\"",
                               "[]",
                               "{}",
                               "[0]",
                               "[-1]",
                               "[\"sliding_attention\"]",
                               "[null,{}]",
                               "{\"a\":[]}",
                               "{\"rope_type\":\"yarn\"}",
                               "{\"quant_method\":\"mxfp4\"}"};

// Every place in the document that holds a value; what is inside a value before it, so that putting a value back does
// not move the places still to come.
void collect(Json& value, std::vector<Json*>& places) {
  if (value.is_structured())
    for (Json& child : value) collect(child, places);
  places.push_back(&value);
}

TEST(ConfigProperty, AnyOneValueReplaced) {
  for (const char* text : kConfigs) {
    EXPECT_EQ(check_config(text), "");
    ASSERT_NO_THROW(make_model(Json::parse(text)));
    Json config = Json::parse(text);
    std::vector<Json*> places;
    collect(config, places);
    for (Json* place : places) {
      const Json saved = *place;
      for (const char* value : kValues) {
        *place = Json::parse(value);
        ASSERT_EQ(check_config(config.dump()), "") << config.dump();
      }
      *place = saved;
    }
  }
}

TEST(ConfigProperty, SeveralValuesReplacedOrLost) {
  std::mt19937 random(11);
  for (int round = 0; round < 5000; ++round) {
    Json config = Json::parse(kConfigs[random() % std::size(kConfigs)]);
    for (int edits = 0; edits < 3; ++edits) {
      auto it = config.begin();
      std::advance(it, random() % config.size());
      if (random() % 4 == 0) {
        config.erase(it);
      } else {
        it.value() = Json::parse(kValues[random() % std::size(kValues)]);
      }
    }
    ASSERT_EQ(check_config(config.dump()), "") << config.dump();
  }
}

TEST(ConfigProperty, BytesEdited) {
  std::mt19937 random(12);
  for (int round = 0; round < 5000; ++round) {
    std::string text = kConfigs[random() % std::size(kConfigs)];
    for (int edits = 0; edits < 3; ++edits) text[random() % text.size()] = static_cast<char>(random());
    ASSERT_EQ(check_config(text), "") << text;
  }
}

}  // namespace
}  // namespace tessera
