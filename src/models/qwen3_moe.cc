// Qwen3-MoE: Qwen3 attention; in sparse layers top-k experts of softmax probabilities, one checkpoint tensor an expert
// and matrix.
#include "core/error.h"
#include "models/decoder.h"
#include "models/registry.h"

namespace tessera {

std::unique_ptr<Model> make_qwen3_moe(const Json& json) {
  DecoderConfig c = DecoderConfig::parse(json, "Qwen3MoeForCausalLM");
  c.head_norms = true;
  c.attention_output_bias = c.attention_bias;
  c.mlp_bias = false;
  ConfigReader r(json);
  if (!r.has("layer_types") && r.boolean_or("use_sliding_window", false) && r.has("sliding_window"))
    c.windows.assign(c.windows.size(), r.integer("sliding_window"));
  c.experts.num_experts = r.integer("num_experts", 1, 65536);
  c.experts.num_experts_per_tok = r.integer("num_experts_per_tok", 1, c.experts.num_experts);
  c.experts.moe_intermediate_size = r.integer("moe_intermediate_size");
  c.experts.norm_topk_prob = r.boolean_or("norm_topk_prob", false);
  const int64_t every = r.integer_or("decoder_sparse_step", 1, 1);
  for (int64_t i = 0; i < c.num_hidden_layers; ++i) c.experts.sparse.push_back((i + 1) % every == 0);
  if (r.has("mlp_only_layers")) {
    for (const Json& layer : json["mlp_only_layers"]) {
      if (!layer.is_number_integer() || layer < 0 || layer >= c.num_hidden_layers)
        fail(ErrorCode::kCorrupt, "config.json: mlp_only_layers must list layers from 0 to {}",
             c.num_hidden_layers - 1);
      c.experts.sparse[layer.get<size_t>()] = false;
    }
  }
  return make_decoder(std::move(c));
}

}  // namespace tessera
