// Mixture of experts: router, experts and their weighted sum.
#pragma once

#include "layers/linear.h"

namespace tessera {

struct Moe {
  Linear router;        // [E, H]
  Weight gate_up;       // [E, 2I, H]
  Tensor gate_up_bias;  // [E, 2I] or undefined
  Weight down;          // [E, H, I]
  Tensor down_bias;     // [E, H] or undefined
  int64_t experts_per_token = 0;
  RouterMode mode = RouterMode::kSoftmaxOfTopK;
  MoeActivation activation = MoeActivation::kSwigluOai;
  float limit = 7.0f;
};

// residual += attended, then residual += the experts' answer to its norm. With ranks, and where a kernel from the hub
// computes the experts, the answer may be left for the next norm to add: it is returned then, in `later` [T, H].
Pending moe(Step& step, int layer, const Moe& m, const Norm& input_norm, const Tensor& residual,
            const Pending& attended, const Tensor& later);
// Room for that, once a step; undefined where the answer is never left.
Tensor moe_later(Step& step, const Tensor& residual);

}  // namespace tessera
