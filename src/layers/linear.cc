#include "layers/linear.h"

#include "layers/gather_logits.h"

namespace tessera {

void Linear::declare(WeightPlan& plan, std::string_view name, int64_t n, int64_t k, Split split, bool with_bias) {
  plan.matrix(w, std::string(name) + ".weight", n, k, split);
  const bool partial = split == Split::kHeadCols || split == Split::kInnerCols;  // sums: the bias is added once
  if (with_bias) plan.vector(bias, std::string(name) + ".bias", n, partial ? Split::kOnce : split);
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

Tensor norm(Step& step, const Norm& layer, const Tensor& residual, const Pending& pending) {
  if (pending.over == nullptr) return norm(step, layer, residual, pending.delta);
  Tensor out = step.alloc(residual.shape);
  const AllReduceNormArgs fused{.norm = {.residual = residual,
                                         .delta = pending.delta,
                                         .weight = layer.weight,
                                         .eps = layer.eps,
                                         .round_before_weight = layer.round_before_weight,
                                         .out = out},
                                .communicator = pending.over,
                                .sent = pending.sent};
  if (step.try_run(step.kernels->all_reduce_norm, fused)) return out;
  step.all_reduce(pending.over, pending.delta);
  norm_into(step, layer, residual, pending.delta, out);
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
  gate.declare(plan, "mlp.gate_proj", intermediate, hidden, Split::kInnerRows, with_bias);
  up.declare(plan, "mlp.up_proj", intermediate, hidden, Split::kInnerRows, with_bias);
  down.declare(plan, "mlp.down_proj", hidden, intermediate, Split::kInnerCols, with_bias);
}

Tensor mlp(Step& step, const Mlp& layer, const Tensor& x) {
  Tensor gate = linear(step, layer.gate, x);
  Tensor up = linear(step, layer.up, x);
  step.run(step.kernels->silu_mul, SiluMulArgs{.gate = gate, .up = up, .out = gate});
  Tensor out = linear(step, layer.down, gate);
  if (step.split()) step.all_reduce(step.ranks->tensor, out);
  return out;
}

Tensor embed(Step& step, const Weight& table) {
  Tensor out = step.alloc({step.tokens(), table.k});
  step.run(step.kernels->embed, EmbedArgs{.ids = step.ids, .table = table.values, .out = out});
  return out;
}

namespace {

// The rows wanted of all groups, in the order that is asked for.
void pick_of_groups(Step& step, const Tensor& x, const Tensor& picked) {
  const TokenGroups& groups = step.groups;
  const int64_t own = step.logit_rows.dim(0), parts = std::ssize(groups.tokens), hidden = x.dim(1);
  Tensor mine = step.alloc({groups.most_rows, hidden}), all = step.alloc({parts, groups.most_rows, hidden});
  if (own > 0) step.run(step.kernels->embed, EmbedArgs{.ids = step.logit_rows, .table = x, .out = mine.rows(0, own)});
  if (!step.measure) step.ranks->replicas->all_gather(mine, all, step.stream.native);
  step.run(step.kernels->embed,
           EmbedArgs{.ids = groups.row_order, .table = all.reshape({parts * groups.most_rows, hidden}), .out = picked});
}

}  // namespace

void unembed(Step& step, const Weight& head, int64_t vocab_size, const Tensor& x) {
  const int64_t rows = step.groups.tokens.empty() ? step.logit_rows.dim(0) : step.groups.row_order.dim(0);
  if (rows == 0) return;
  Tensor picked = step.alloc({rows, x.dim(1)});
  if (step.groups.tokens.empty()) {
    step.run(step.kernels->embed, EmbedArgs{.ids = step.logit_rows, .table = x, .out = picked});
  } else {
    pick_of_groups(step, x, picked);
  }
  Tensor logits = own_logits(step, rows, head.n, vocab_size);
  step.run(step.kernels->linear, LinearArgs{.x = picked, .w = head, .out = logits});
  if (head.n == vocab_size) {
    step.logits = logits;
  } else {
    gather_logits(step, logits, vocab_size);
  }
}

}  // namespace tessera
