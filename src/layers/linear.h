// Dense layers: rows in the plan and forward.
#pragma once

#include <string>
#include <string_view>

#include "layers/step.h"
#include "parallel/weight_plan.h"

namespace tessera {

struct Linear {
  Weight w;     // [N, K]
  Tensor bias;  // [N] or undefined

  // name: "self_attn.q_proj"; rows <name>.weight and, with bias, <name>.bias.
  void declare(WeightPlan& plan, std::string_view name, int64_t n, int64_t k, Split split, bool with_bias);
};

Tensor linear(Step& step, const Linear& layer, const Tensor& x);  // [T, K] -> [T, N]
void linear_into(Step& step, const Linear& layer, const Tensor& x, const Tensor& out);

struct Norm {
  Tensor weight;  // [N]
  float eps = 1e-5f;
  bool round_before_weight = true;  // Llama's order; gpt-oss multiplies first

  void declare(WeightPlan& plan, std::string_view name, int64_t n) {
    plan.vector(weight, std::string(name) + ".weight", n);
  }
};

// residual += delta (when defined), then the norm of it: [T, N] -> [T, N].
Tensor norm(Step& step, const Norm& layer, const Tensor& residual, const Tensor& delta = {});
// What the next norm adds to the residual. With `over`, what is here is one rank's part of it, and those ranks sum.
struct Pending {
  Tensor delta;  // undefined: nothing
  Communicator* over = nullptr;
  bool sent = false;  // the ranks have each other's parts already
};
Tensor norm(Step& step, const Norm& layer, const Tensor& residual, const Pending& pending);
void norm_into(Step& step, const Norm& layer, const Tensor& residual, const Tensor& delta, const Tensor& out);
// In place over the last dimension of x [.., N].
void norm_in_place(Step& step, const Norm& layer, const Tensor& x, int64_t n);

// Gated feed-forward: down(silu(gate(x)) * up(x)).
struct Mlp {
  Linear gate, up, down;
  void declare(WeightPlan& plan, int64_t hidden, int64_t intermediate, bool with_bias);
};

// [T, H] -> [T, H], summed over the ranks that split the inner width.
Tensor mlp(Step& step, const Mlp& layer, const Tensor& x);

// Token embedding of the step: [T] -> [T, H].
Tensor embed(Step& step, const Weight& table);
// Logits of the rows wanted: sets step.logits F32 [R, V] from the last norm's output x [T, H]. `head` may be a rank's
// part of the vocabulary: see gather_logits().
void unembed(Step& step, const Weight& head, int64_t vocab_size, const Tensor& x);

}  // namespace tessera
