// The last step of every multi-token expert row: out[t] = sum over slots of weight * (y[t, slot] + down_bias[expert]).
#pragma once

#include "kernels/table.h"

namespace tessera::cuda {

// y: F32 [T * A, H], rows in pair order. Sums in slot order.
void moe_combine(const MoeArgs& a, const float* y, Stream& stream);

}  // namespace tessera::cuda
