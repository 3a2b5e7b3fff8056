// Expert parallelism by dispatch: each rank is home to some of the step's tokens, sends each once to every rank that
// holds (a part of) one of its experts, and sums what comes back.
#pragma once

#include "layers/step.h"

namespace tessera {

// As the moe op and a sum over all ranks. `a` is this rank's: its weights, and the tokens that it holds with the ids of
// the model's `experts`. Ranks that hold the same tokens get the same a.out: all of them on CPUs, or those of a group
// (step.groups), which on GPUs need a communicator that dispatches().
void dispatch_experts(Step& step, const MoeArgs& a, int64_t experts);

}  // namespace tessera
