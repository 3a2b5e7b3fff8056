// The pre-norm decoder that Llama, Mistral, Qwen3 and Qwen3-MoE share; each of those files is its configuration.
#pragma once

#include <memory>
#include <vector>

#include "models/config.h"
#include "models/model.h"

namespace tessera {

struct DecoderConfig {
  std::string architecture;
  int64_t hidden_size = 0, intermediate_size = 0, num_hidden_layers = 0, vocab_size = 0, max_position_embeddings = 0;
  int64_t num_attention_heads = 0, num_key_value_heads = 0, head_dim = 0;
  float rms_norm_eps = 1e-6f;
  bool attention_bias = false, attention_output_bias = false, mlp_bias = false;
  bool head_norms = false;  // RMS norm of every query and key head before the rotation
  bool tie_word_embeddings = false;
  std::vector<int64_t> windows;  // one a layer, 0: full
  Rope rope;

  struct Experts {
    int64_t num_experts = 0, num_experts_per_tok = 0, moe_intermediate_size = 0;
    bool norm_topk_prob = false;
    std::vector<bool> sparse;  // one a layer
  } experts;

  // The keys all of them share, with transformers' defaults.
  static DecoderConfig parse(const Json& json, const char* architecture);
};

std::unique_ptr<Model> make_decoder(DecoderConfig config);

}  // namespace tessera
