// The last step of every multi-token expert row: out[t] = sum over slots of weight * (y[t, slot] + down_bias[expert]).
#pragma once

#include "kernels/cuda/peer.h"
#include "kernels/table.h"

namespace tessera::cuda {

// y: F32 [T * A, H], rows in pair order. Sums in slot order. With a residual (bf16 [T, H]), the sum, rounded, is added
// to it and out is left alone. With peers, out also goes to the other ranks, as MoeSendArgs says; H is a multiple
// of 64.
void moe_combine(const MoeArgs& a, const Tensor& residual, const float* y, Stream& stream,
                 const PeerView* peers = nullptr);

// Whether the results can go to the other ranks so.
Verdict fits_packets(const MoeSendArgs& a);

}  // namespace tessera::cuda
