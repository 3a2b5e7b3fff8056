// The functions for a GPU; part of builds with CUDA.
#include "kernels/hub/exports/exports.h"

FUNCTION(rms_norm, cuda, kCuda, 4, rms_norm, rms_norm(in))
FUNCTION(add_rms_norm, cuda, kCuda, 5, rms_norm, rms_norm(in, true))
FUNCTION(rotary_pos_emb, cuda, kCuda, 3, rope, rotary_pos_emb(in))
FUNCTION(paged_attention, cuda, kCuda, 12, attention, paged_attention(in))
FUNCTION(moe_mlp, cuda, kCuda, 12, moe, moe_mlp(in, args))
FUNCTION(moe_mlp_part, cuda, kCuda, 13, moe, moe_mlp(in, args, true))
