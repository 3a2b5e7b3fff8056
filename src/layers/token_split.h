// Attention over ranks that hold the same weights: each takes a part of the step's tokens, and all get all results.
#pragma once

#include "layers/step.h"

namespace tessera {

// A part of a step's tokens as attention sees it. Sequences that a border cuts are on both sides of it.
struct TokenSplit {
  Range tokens;
  int64_t most = 0;    // tokens of the largest part
  Tensor query_start;  // of the part
  Tensor context;
  Tensor page_table;
};

// This rank's part. The step's inputs are in CPU memory.
TokenSplit split_tokens(Step& step, const Tensor& page_table);

// own: [most, n], this rank's first. all [replicas * most, n]: the step's tokens in order, from its start.
void join_tokens(Step& step, const Tensor& own, const Tensor& all);

}  // namespace tessera
