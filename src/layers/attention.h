// Rotary position embedding and attention over the paged cache: rows and forward.
#pragma once

#include <string_view>
#include <vector>

#include "layers/linear.h"

namespace tessera {

// Inverse frequencies and the factor on cos and sin.
struct Rope {
  std::vector<float> inv_freq;  // [D/2]
  float factor = 1.0f;
};

struct RopeScaling {
  enum class Type { kDefault, kLinear, kLlama3, kYarn } type = Type::kDefault;
  double factor = 1.0;
  double original_max_position_embeddings = 0;
  double low_freq_factor = 1, high_freq_factor = 4;  // llama3
  double beta_fast = 32, beta_slow = 1;              // yarn
  bool truncate = true;                              // yarn: whole-number correction range
  double attention_factor = 0;                       // yarn: 0 = from the factor
};

// As transformers computes them (modeling_rope_utils): in double, rounded to F32 once.
Rope make_rope(double theta, int64_t head_dim, const RopeScaling& scaling);

struct RopeTables {
  Tensor cos, sin;  // act [T, D/2]
};

// Once a step.
RopeTables rope_tables(Step& step, const Rope& rope);

struct Attention {
  Linear q, k, v, o;
  Norm q_norm, k_norm;                            // per head; weight undefined when the model has none
  Tensor sinks;                                   // [Q] or undefined
  int64_t heads = 0, kv_heads = 0, head_dim = 0;  // of the model; a rank's are those of its weights
  int64_t window = 0;                             // 0: all keys

  struct Options {
    bool qkv_bias = false, o_bias = false, head_norms = false, with_sinks = false;
    float norm_eps = 1e-6f;
  };
  void declare(WeightPlan& plan, int64_t hidden, const Options& options);
  int64_t own_heads() const { return q.w.n / head_dim; }
  int64_t own_kv_heads() const { return k.w.n / head_dim; }
};

// Projects x [T, H], rotates, stores keys and values in the layer's cache, attends, projects back: [T, H], which the
// ranks that split the heads may still have to sum. Not with a probe: it sees sums.
Pending attention(Step& step, int layer, const Attention& a, const RopeTables& rope, const Tensor& x);

}  // namespace tessera
