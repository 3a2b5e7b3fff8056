// The functions for a CPU.
#include "kernels/hub/exports/exports.h"

FUNCTION(rms_norm, cpu, kCpu, 4, rms_norm, rms_norm(in))
FUNCTION(add_rms_norm, cpu, kCpu, 5, rms_norm, rms_norm(in, true))
FUNCTION(rotary_pos_emb, cpu, kCpu, 3, rope, rotary_pos_emb(in))
FUNCTION(paged_attention, cpu, kCpu, 12, attention, paged_attention(in))
FUNCTION(moe_mlp, cpu, kCpu, 12, moe, moe_mlp(in, args))
FUNCTION(moe_mlp_part, cpu, kCpu, 13, moe, moe_mlp(in, args, true))
