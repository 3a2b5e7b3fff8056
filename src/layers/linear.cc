#include "layers/linear.h"

namespace tessera {

void Linear::declare(WeightPlan& plan, std::string_view name, int64_t n, int64_t k, Split split, bool with_bias) {
  plan.matrix(w, std::string(name) + ".weight", n, k, split);
  // A bias of a layer split by columns is added once, after the sum over ranks.
  if (with_bias) plan.vector(bias, std::string(name) + ".bias", n, split == Split::kCols ? Split::kReplicated : split);
}

void linear_into(Step& step, const Linear& layer, const Tensor& x, const Tensor& out) {
  step.run(step.kernels->linear, LinearArgs{.x = x, .w = layer.w, .bias = layer.bias, .out = out});
}

Tensor linear(Step& step, const Linear& layer, const Tensor& x) {
  Tensor out = step.alloc({x.dim(0), layer.w.n});
  linear_into(step, layer, x, out);
  return out;
}

void norm_into(Step& step, const Norm& layer, const Tensor& residual, const Tensor& delta, const Tensor& out) {
  step.run(step.kernels->rms_norm, RmsNormArgs{.residual = residual,
                                               .delta = delta,
                                               .weight = layer.weight,
                                               .eps = layer.eps,
                                               .round_before_weight = layer.round_before_weight,
                                               .out = out});
}

Tensor norm(Step& step, const Norm& layer, const Tensor& residual, const Tensor& delta) {
  Tensor out = step.alloc(residual.shape);
  norm_into(step, layer, residual, delta, out);
  return out;
}

void norm_in_place(Step& step, const Norm& layer, const Tensor& x, int64_t n) {
  Tensor rows = x.reshape({x.numel() / n, n});
  step.run(step.kernels->rms_norm, RmsNormArgs{.residual = rows,
                                               .weight = layer.weight,
                                               .eps = layer.eps,
                                               .round_before_weight = layer.round_before_weight,
                                               .out = rows});
}

void Mlp::declare(WeightPlan& plan, int64_t hidden, int64_t intermediate, bool with_bias) {
  gate.declare(plan, "mlp.gate_proj", intermediate, hidden, Split::kRows, with_bias);
  up.declare(plan, "mlp.up_proj", intermediate, hidden, Split::kRows, with_bias);
  down.declare(plan, "mlp.down_proj", hidden, intermediate, Split::kCols, with_bias);
}

Tensor mlp(Step& step, const Mlp& layer, const Tensor& x) {
  Tensor gate = linear(step, layer.gate, x);
  Tensor up = linear(step, layer.up, x);
  step.run(step.kernels->silu_mul, SiluMulArgs{.gate = gate, .up = up, .out = gate});
  return linear(step, layer.down, gate);
}

Tensor embed(Step& step, const Weight& table) {
  Tensor out = step.alloc({step.tokens(), table.k});
  step.run(step.kernels->embed, EmbedArgs{.ids = step.ids, .table = table.values, .out = out});
  return out;
}

void unembed(Step& step, const Weight& head, const Tensor& x) {
  int64_t rows = step.logit_rows.dim(0);
  if (rows == 0) return;
  Tensor picked = step.alloc({rows, x.dim(1)});
  step.run(step.kernels->embed, EmbedArgs{.ids = step.logit_rows, .table = x, .out = picked});
  step.logits = step.alloc(DType::kF32, {rows, head.n});
  step.run(step.kernels->linear, LinearArgs{.x = picked, .w = head, .out = step.logits});
}

}  // namespace tessera
