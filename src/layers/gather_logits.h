// Logits whose columns the ranks split, on every rank: whole, or the best few of each.
#pragma once

#include "layers/step.h"

namespace tessera {

// F32 [R, width] for this rank's columns, with the room that gathering needs behind it.
Tensor own_logits(Step& step, int64_t rows, int64_t width, int64_t vocab_size);

// own: from own_logits(). Sets step.logits F32 [R, V], and on a GPU step.parts, for join_logits(). On a CPU, with
// step.candidates only so many of each rank and row travel, ties going to the lower id, and all others are -inf: enough
// for greedy and top-k sampling.
void gather_logits(Step& step, const Tensor& own, int64_t vocab_size);

// Fills step.logits from the ranks' step.parts. Every rank calls it.
void join_logits(Step& step);

}  // namespace tessera
