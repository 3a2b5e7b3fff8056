#include "layers/moe.h"

namespace tessera {

Tensor moe(Step& step, int layer, const Moe& m, const Tensor& x) {
  const int64_t tokens = x.dim(0);
  Tensor logits = linear(step, m.router, x);
  Tensor indices = step.alloc(DType::kI32, {tokens, m.experts_per_token});
  Tensor weights = step.alloc(DType::kF32, {tokens, m.experts_per_token});
  step.run(step.kernels->router, RouterArgs{.logits = logits, .mode = m.mode, .indices = indices, .weights = weights});
  step.show("router_logits", layer, logits);
  step.show("router_indices", layer, indices);
  step.show("router_weights", layer, weights);
  Tensor out = step.alloc(x.shape);
  step.run(step.kernels->moe, MoeArgs{.x = x,
                                      .indices = indices,
                                      .weights = weights,
                                      .gate_up = m.gate_up,
                                      .gate_up_bias = m.gate_up_bias,
                                      .down = m.down,
                                      .down_bias = m.down_bias,
                                      .activation = m.activation,
                                      .limit = m.limit,
                                      .out = out});
  return out;
}

}  // namespace tessera
