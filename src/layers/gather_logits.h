// Logits whose columns the ranks split, on every rank: whole, or the best few of each.
#pragma once

#include "layers/step.h"

namespace tessera {

// F32 [R, width] for this rank's columns, with the room that gathering needs behind it.
Tensor own_logits(Step& step, int64_t rows, int64_t width, int64_t vocab_size);

// own: from own_logits(). Returns F32 [R, V]. With step.candidates only so many of each rank and row
// travel, ties going to the lower id, and all others are -inf: enough for greedy and top-k sampling. That needs a CPU;
// a GPU always gathers all.
Tensor gather_logits(Step& step, const Tensor& own, int64_t vocab_size);

}  // namespace tessera
