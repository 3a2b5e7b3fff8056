// gpt-oss (20b, 120b): grouped attention with sinks and biases, every other layer windowed, top-4 mixture of experts in
// MXFP4, YaRN rope.
#include "layers/attention.h"
#include "layers/moe.h"
#include "models/config.h"
#include "models/registry.h"

namespace tessera {
namespace {

struct GptOssConfig {
  int64_t hidden_size, intermediate_size, num_hidden_layers, vocab_size;
  int64_t num_attention_heads, num_key_value_heads, head_dim;
  int64_t num_local_experts, num_experts_per_tok, max_position_embeddings;
  float rms_norm_eps, swiglu_limit;
  bool attention_bias, tie_word_embeddings;
  std::vector<int64_t> windows;
  Rope rope;

  static GptOssConfig parse(const Json& json);
};

GptOssConfig GptOssConfig::parse(const Json& json) {
  ConfigReader r(json);
  r.require_silu();
  GptOssConfig c;
  c.hidden_size = r.integer("hidden_size");
  c.intermediate_size = r.integer("intermediate_size");
  c.num_hidden_layers = r.integer("num_hidden_layers", 1, 4096);
  c.vocab_size = r.integer("vocab_size");
  c.num_attention_heads = r.integer("num_attention_heads", 1, 4096);
  c.num_key_value_heads = r.integer("num_key_value_heads", 1, 4096);
  c.head_dim = r.integer_or("head_dim", c.hidden_size / c.num_attention_heads, 2, 4096);
  c.num_local_experts = r.integer("num_local_experts", 1, 65536);
  c.num_experts_per_tok = r.has("num_experts_per_tok") ? r.integer("num_experts_per_tok", 1, c.num_local_experts)
                                                       : r.integer("experts_per_token", 1, c.num_local_experts);
  c.max_position_embeddings = r.integer("max_position_embeddings");
  c.rms_norm_eps = static_cast<float>(r.number_or("rms_norm_eps", 1e-5, 0, 1));
  c.swiglu_limit = static_cast<float>(r.number_or("swiglu_limit", 7.0, 0, 1e6));
  c.attention_bias = r.boolean_or("attention_bias", true);
  c.tie_word_embeddings = r.boolean_or("tie_word_embeddings", false);
  c.windows = r.windows(c.num_hidden_layers, 0);
  if (!r.has("layer_types") && r.has("sliding_window")) {  // the published default: even layers slide
    for (size_t i = 0; i < c.windows.size(); i += 2) c.windows[i] = r.integer("sliding_window");
  }
  check_attention_shape(c.num_attention_heads, c.num_key_value_heads, c.head_dim);
  if (c.hidden_size % 32 != 0 || c.intermediate_size % 32 != 0) {
    fail(ErrorCode::kUnsupported,
         "config.json: hidden_size {} and intermediate_size {} must be multiples of 32, the MXFP4 block", c.hidden_size,
         c.intermediate_size);
  }
  c.rope = r.rope(c.head_dim);
  return c;
}

struct GptOssLayer {
  Norm input_norm, post_norm;
  Attention attention;
  Moe moe;

  void declare(WeightPlan& plan, const GptOssConfig& c);
};

void GptOssLayer::declare(WeightPlan& plan, const GptOssConfig& c) {
  const int64_t e = c.num_local_experts, h = c.hidden_size, i = c.intermediate_size;
  input_norm.declare(plan, "input_layernorm", h);
  attention.declare(plan, h, {.qkv_bias = c.attention_bias, .o_bias = c.attention_bias, .with_sinks = true});
  post_norm.declare(plan, "post_attention_layernorm", h);
  moe.router.declare(plan, "mlp.router", e, h, Split::kReplicated, true);
  plan.experts(moe.gate_up, "mlp.experts.gate_up_proj", e, 2 * i, h, ExpertInner::kPairs);
  plan.expert_vectors(moe.gate_up_bias, "mlp.experts.gate_up_proj_bias", e, 2 * i, ExpertInner::kPairs);
  plan.experts(moe.down, "mlp.experts.down_proj", e, h, i, ExpertInner::kColumns);
  plan.expert_vectors(moe.down_bias, "mlp.experts.down_proj_bias", e, h, ExpertInner::kOnce);
}

class GptOss final : public Model {
 public:
  explicit GptOss(const GptOssConfig& config)
      : Model({"GptOssForCausalLM", config.vocab_size, config.hidden_size, config.num_hidden_layers,
               config.max_position_embeddings, config.num_experts_per_tok}),
        config_(config),
        layers_(static_cast<size_t>(config.num_hidden_layers)) {}

  void declare(WeightPlan& plan) override {
    const GptOssConfig& c = config_;
    plan.set_prefix("model.");
    plan.table(embed_, "embed_tokens.weight", c.vocab_size, c.hidden_size);
    for (size_t i = 0; i < layers_.size(); ++i) {
      GptOssLayer& layer = layers_[i];
      layer.input_norm = layer.post_norm = Norm{.eps = c.rms_norm_eps, .round_before_weight = false};
      layer.attention = {.heads = c.num_attention_heads,
                         .kv_heads = c.num_key_value_heads,
                         .head_dim = c.head_dim,
                         .window = c.windows[i]};
      layer.moe.experts_per_token = c.num_experts_per_tok;
      layer.moe.limit = c.swiglu_limit;
      plan.set_prefix("model.layers." + std::to_string(i) + ".");
      layer.declare(plan, c);
    }
    plan.set_prefix("model.");
    norm_ = Norm{.eps = c.rms_norm_eps, .round_before_weight = false};
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
      const GptOssLayer& layer = layers_[i];
      const int index = static_cast<int>(i);
      const Pending attended = attention(step, index, layer.attention, rope, norm(step, layer.input_norm, x, answer));
      step.show("attention", index, attended.delta);
      answer = moe(step, index, layer.moe, layer.post_norm, x, attended, later);
      step.show("hidden", index, x);
    }
    Tensor last = norm(step, norm_, x, answer);
    step.show("hidden.norm", -1, last);
    unembed(step, head_, config_.vocab_size, last);
  }

 private:
  GptOssConfig config_;
  std::vector<GptOssLayer> layers_;
  Weight embed_, head_;
  Norm norm_;
};

}  // namespace

std::unique_ptr<Model> make_gpt_oss(const Json& config) {
  return std::make_unique<GptOss>(GptOssConfig::parse(config));
}

}  // namespace tessera
