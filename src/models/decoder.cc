#include "models/decoder.h"

#include "core/error.h"
#include "layers/moe.h"

namespace tessera {

DecoderConfig DecoderConfig::parse(const Json& json, const char* architecture) {
  ConfigReader r(json);
  r.require_silu();
  DecoderConfig c;
  c.architecture = architecture;
  c.hidden_size = r.integer("hidden_size");
  c.intermediate_size = r.integer("intermediate_size");
  c.num_hidden_layers = r.integer("num_hidden_layers", 1, 4096);
  c.vocab_size = r.integer("vocab_size");
  c.max_position_embeddings = r.integer_or("max_position_embeddings", 2048, 1);
  c.num_attention_heads = r.integer("num_attention_heads", 1, 65536);
  c.num_key_value_heads = r.integer_or("num_key_value_heads", c.num_attention_heads, 1, 65536);
  c.head_dim = r.integer_or("head_dim", c.hidden_size / c.num_attention_heads, 2, 4096);
  c.rms_norm_eps = static_cast<float>(r.number_or("rms_norm_eps", 1e-6, 0, 1));
  c.attention_bias = r.boolean_or("attention_bias", false);
  c.mlp_bias = r.boolean_or("mlp_bias", false);
  c.tie_word_embeddings = r.boolean_or("tie_word_embeddings", false);
  c.windows = r.windows(c.num_hidden_layers, 0);
  check_attention_shape(c.num_attention_heads, c.num_key_value_heads, c.head_dim);
  c.rope = r.rope(c.head_dim);
  return c;
}

namespace {

struct DecoderLayer {
  Norm input_norm, post_norm;
  Attention attention;
  Mlp mlp;
  Moe moe;
  bool sparse = false;

  void declare(WeightPlan& plan, const DecoderConfig& c);
};

void DecoderLayer::declare(WeightPlan& plan, const DecoderConfig& c) {
  input_norm.declare(plan, "input_layernorm", c.hidden_size);
  attention.declare(plan, c.hidden_size,
                    {.qkv_bias = c.attention_bias,
                     .o_bias = c.attention_output_bias,
                     .head_norms = c.head_norms,
                     .norm_eps = c.rms_norm_eps});
  post_norm.declare(plan, "post_attention_layernorm", c.hidden_size);
  if (!sparse) {
    mlp.declare(plan, c.hidden_size, c.intermediate_size, c.mlp_bias);
    return;
  }
  const int64_t e = c.experts.num_experts, i = c.experts.moe_intermediate_size;
  moe.router.declare(plan, "mlp.gate", e, c.hidden_size, Split::kReplicated, false);
  plan.expert_list(moe.gate_up, "mlp.experts", {"gate_proj", "up_proj"}, e, 2 * i, c.hidden_size);
  plan.expert_list(moe.down, "mlp.experts", {"down_proj"}, e, c.hidden_size, i);
}

class Decoder final : public Model {
 public:
  explicit Decoder(DecoderConfig config)
      : Model({config.architecture, config.vocab_size, config.hidden_size, config.num_hidden_layers,
               config.max_position_embeddings, config.experts.num_experts_per_tok}),
        config_(std::move(config)),
        layers_(static_cast<size_t>(config_.num_hidden_layers)) {}

  void declare(WeightPlan& plan) override {
    const DecoderConfig& c = config_;
    plan.set_prefix("model.");
    plan.table(embed_, "embed_tokens.weight", c.vocab_size, c.hidden_size);
    for (size_t i = 0; i < layers_.size(); ++i) {
      DecoderLayer& layer = layers_[i];
      layer.sparse = !c.experts.sparse.empty() && c.experts.sparse[i];
      layer.input_norm.eps = layer.post_norm.eps = c.rms_norm_eps;
      layer.attention = {.heads = c.num_attention_heads,
                         .kv_heads = c.num_key_value_heads,
                         .head_dim = c.head_dim,
                         .window = c.windows[i]};
      layer.moe.experts_per_token = c.experts.num_experts_per_tok;
      layer.moe.mode = c.experts.norm_topk_prob ? RouterMode::kTopKOfSoftmaxNormalised : RouterMode::kTopKOfSoftmax;
      layer.moe.activation = MoeActivation::kSilu;
      plan.set_prefix("model.layers." + std::to_string(i) + ".");
      layer.declare(plan, c);
    }
    plan.set_prefix("model.");
    norm_.eps = c.rms_norm_eps;
    norm_.declare(plan, "norm", c.hidden_size);
    plan.set_prefix("");
    if (c.tie_word_embeddings) {
      plan.alias(head_, "lm_head.weight", "model.embed_tokens.weight");
    } else {
      plan.matrix(head_, "lm_head.weight", c.vocab_size, c.hidden_size, Split::kVocabulary);
    }
  }

  CacheSpec cache() const override {
    CacheSpec spec;
    for (int64_t window : config_.windows)
      spec.layers.push_back({config_.num_key_value_heads, config_.head_dim, window});
    return spec;
  }

  void forward(Step& step) const override {
    RopeTables rope = rope_tables(step, config_.rope);
    Tensor x = embed(step, embed_);  // [T, H]
    step.show("hidden.embed", -1, x);
    const Tensor later = moe_later(step, x);
    Pending answer;  // of the layer before, not yet added
    for (size_t i = 0; i < layers_.size(); ++i) {
      ScratchScope scope(step);
      const DecoderLayer& layer = layers_[i];
      const int index = static_cast<int>(i);
      const Pending attended = attention(step, index, layer.attention, rope, norm(step, layer.input_norm, x, answer));
      step.show("attention", index, attended.delta);
      if (layer.sparse) {
        answer = moe(step, index, layer.moe, layer.post_norm, x, attended, later);
      } else {
        Tensor mixed = mlp(step, layer.mlp, norm(step, layer.post_norm, x, attended));
        step.run(step.kernels->add, AddArgs{.x = x, .delta = mixed});
        answer = {};
      }
      step.show("hidden", index, x);
    }
    Tensor last = norm(step, norm_, x, answer);
    step.show("hidden.norm", -1, last);
    unembed(step, head_, config_.vocab_size, last);
  }

 private:
  DecoderConfig config_;
  std::vector<DecoderLayer> layers_;
  Weight embed_, head_;
  Norm norm_;
};

}  // namespace

std::unique_ptr<Model> make_decoder(DecoderConfig config) {
  return std::make_unique<Decoder>(std::move(config));
}

}  // namespace tessera
