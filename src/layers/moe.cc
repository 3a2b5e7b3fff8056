#include "layers/moe.h"

#include "layers/expert_dispatch.h"

namespace tessera {

namespace {

// A kernel from the hub does not add its sum to the residual.
bool experts_of_hub(const Kernels& kernels) {
  return !kernels.moe.rows.empty() && kernels.moe.rows[0].from_hub;
}

}  // namespace

Tensor moe_later(Step& step, const Tensor& residual) {
  return step.split() || experts_of_hub(*step.kernels) ? step.alloc(residual.shape) : Tensor{};
}

Pending moe(Step& step, int layer, const Moe& m, const Norm& input_norm, const Tensor& residual,
            const Pending& attended, const Tensor& later) {
  const int64_t tokens = residual.dim(0);
  Tensor x = step.alloc(residual.shape);
  Tensor logits = step.alloc({tokens, m.router.w.n});
  Tensor indices = step.alloc(DType::kI32, {tokens, m.experts_per_token});
  Tensor weights = step.alloc(DType::kF32, {tokens, m.experts_per_token});
  NormRouterArgs fused{.residual = residual,
                       .delta = attended.delta,
                       .norm_weight = input_norm.weight,
                       .eps = input_norm.eps,
                       .round_before_weight = input_norm.round_before_weight,
                       .router = m.router.w,
                       .router_bias = m.router.bias,
                       .mode = m.mode,
                       .normed = x,
                       .logits = logits,
                       .indices = indices,
                       .weights = weights,
                       .communicator = attended.over,
                       .sent = attended.sent};
  bool routed = step.try_run(step.kernels->norm_router, fused);
  if (!routed && attended.over != nullptr) {
    step.all_reduce(attended.over, attended.delta);
    fused.communicator = nullptr;
    routed = step.try_run(step.kernels->norm_router, fused);
  }
  if (!routed) {
    norm_into(step, input_norm, residual, attended.delta, x);
    step.run(step.kernels->linear, LinearArgs{.x = x, .w = m.router.w, .bias = m.router.bias, .out = logits});
    step.run(step.kernels->router,
             RouterArgs{.logits = logits, .mode = m.mode, .indices = indices, .weights = weights});
  }
  step.show("router_logits", layer, logits);
  step.show("router_indices", layer, indices);
  step.show("router_weights", layer, weights);
  Tensor out = later.defined() ? later : step.alloc(residual.shape);
  const MoeArgs experts{
      .x = x,
      .indices = indices,
      .weights = weights,
      .gate_up = m.gate_up,
      .gate_up_bias = m.gate_up_bias,
      .down = m.down,
      .down_bias = m.down_bias,
      .activation = m.activation,
      .limit = m.limit,
      .first_expert = step.split() ? expert_share(m.router.w.n, step.ranks->mesh, step.ranks->rank).begin : 0,
      .part = step.split() && step.ranks->mesh.expert > 1,
      .all_experts = m.router.w.n,
      .out = out};
  if (step.split()) {
    const bool dispatch = step.ranks->exchange == ExpertExchange::kDispatch;
    if (!dispatch && step.probe == nullptr &&
        step.try_run(step.kernels->moe_send, MoeSendArgs{.moe = experts, .communicator = step.ranks->world}))
      return {out, step.ranks->world, true};
    if (dispatch) {
      dispatch_experts(step, experts, m.router.w.n);
    } else {
      step.run(step.kernels->moe, experts);
    }
    if (step.probe == nullptr) return {out, dispatch ? nullptr : step.ranks->world};
    if (!dispatch) step.all_reduce(step.ranks->world, out);
  } else if (step.try_run(step.kernels->moe_add, MoeAddArgs{.moe = experts, .residual = residual})) {
    return {};
  } else {
    step.run(step.kernels->moe, experts);
    if (later.defined() && step.probe == nullptr) return {out, nullptr};
  }
  step.run(step.kernels->add, AddArgs{.x = residual, .delta = out});
  return {};
}

}  // namespace tessera
