// Expert parallelism by dispatch: each rank is home to some of the step's tokens, sends each once to every rank that
// holds (a part of) one of its experts, and sums what comes back.
#pragma once

#include "layers/step.h"

namespace tessera {

// As the moe op and a sum over all ranks. `a` is this rank's: its weights, all of the step's tokens and the ids of the
// model's `experts`. Every rank gets all of a.out. The tensors are in CPU memory.
void dispatch_experts(Step& step, const MoeArgs& a, int64_t experts);

}  // namespace tessera
