// The reference rows, one function a file: plain serial loops that define each op and accept every case.
#pragma once

#include "kernels/table.h"

namespace tessera::reference {

KernelRow<EmbedArgs> embed_row();
KernelRow<RmsNormArgs> rms_norm_row();
KernelRow<AddArgs> add_row();
KernelRow<LinearArgs> linear_row();
KernelRow<RopeTableArgs> rope_table_row();
KernelRow<RopeArgs> rope_row();
KernelRow<KvWriteArgs> kv_write_row();
KernelRow<AttentionArgs> attention_row();
KernelRow<RouterArgs> router_row();
KernelRow<MoeArgs> moe_row();
KernelRow<SiluMulArgs> silu_mul_row();
KernelRow<RopeKvArgs> rope_kv_row();
KernelRow<RopeAttentionArgs> rope_attention_row();
KernelRow<NormRouterArgs> norm_router_row();
KernelRow<MoeAddArgs> moe_add_row();
KernelRow<AllReduceNormArgs> all_reduce_norm_row();
KernelRow<LinearSendArgs> linear_send_row();
KernelRow<MoeSendArgs> moe_send_row();
KernelRow<SamplePartsArgs> sample_parts_row();
KernelRow<SampleArgs> sample_row();
KernelRow<JoinColumnsArgs> join_columns_row();

}  // namespace tessera::reference
