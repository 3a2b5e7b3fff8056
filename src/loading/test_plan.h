// A gpt-oss-shaped weight plan for the loading tests, with its targets.
#pragma once

#include <deque>
#include <map>
#include <string>

#include "core/json.h"
#include "parallel/weight_plan.h"

namespace tessera {

struct GptOssPlan {
  // Dimensions as config.json names them.
  explicit GptOssPlan(const Json& c) {
    int64_t hidden = c["hidden_size"], inner = c["intermediate_size"], experts = c["num_local_experts"];
    int64_t head = c["head_dim"], vocab = c["vocab_size"], layers = c["num_hidden_layers"];
    int64_t q = head * c["num_attention_heads"].get<int64_t>(), kv = head * c["num_key_value_heads"].get<int64_t>();
    for (int64_t l = 0; l < layers; ++l) {
      prefix = "model.layers." + std::to_string(l) + ".";
      plan.set_prefix(prefix);
      vector("input_layernorm.weight", hidden);
      for (auto [name, width] : {std::pair{"q", q}, {"k", kv}, {"v", kv}}) {
        matrix(std::string("self_attn.") + name + "_proj.weight", width, hidden);
        vector(std::string("self_attn.") + name + "_proj.bias", width);
      }
      matrix("self_attn.o_proj.weight", hidden, q);
      vector("self_attn.o_proj.bias", hidden);
      vector("self_attn.sinks", c["num_attention_heads"]);
      vector("post_attention_layernorm.weight", hidden);
      matrix("mlp.router.weight", experts, hidden);
      vector("mlp.router.bias", experts);
      plan.experts(weight("mlp.experts.gate_up_proj"), "mlp.experts.gate_up_proj", experts, 2 * inner, hidden);
      plan.expert_vectors(tensor("mlp.experts.gate_up_proj_bias"), "mlp.experts.gate_up_proj_bias", experts, 2 * inner);
      plan.experts(weight("mlp.experts.down_proj"), "mlp.experts.down_proj", experts, hidden, inner);
      plan.expert_vectors(tensor("mlp.experts.down_proj_bias"), "mlp.experts.down_proj_bias", experts, hidden);
    }
    plan.set_prefix(prefix = "");
    matrix("model.embed_tokens.weight", vocab, hidden);
    vector("model.norm.weight", hidden);
    matrix("lm_head.weight", vocab, hidden);
  }

  void vector(const std::string& name, int64_t n) { plan.vector(tensor(name), name, n); }
  void matrix(const std::string& name, int64_t n, int64_t k) {
    plan.matrix(weight(name), name, n, k, Split::kReplicated);
  }
  Tensor& tensor(const std::string& name) { return tensors[prefix + name]; }
  Weight& weight(const std::string& name) { return weights[prefix + name]; }

  WeightPlan plan;
  std::string prefix;
  std::map<std::string, Tensor> tensors;  // by checkpoint name; map nodes do not move
  std::map<std::string, Weight> weights;
};

}  // namespace tessera
