// One function a row of this backend; cuda.cc puts them into the table, best first.
#pragma once

#include "kernels/table.h"

namespace tessera::cuda {

KernelRow<EmbedArgs> embed_row();
KernelRow<RmsNormArgs> rms_norm_row();
KernelRow<AddArgs> add_row();
KernelRow<SiluMulArgs> silu_mul_row();
KernelRow<JoinColumnsArgs> join_columns_row();
KernelRow<RopeKvArgs> rope_kv_row();
KernelRow<NormRouterArgs> norm_router_few_row();
KernelRow<NormRouterArgs> norm_router_row();
KernelRow<RopeAttentionArgs> rope_attention_decode_row();
KernelRow<MoeAddArgs> moe_add_bf16_mxfp4_small_row();
KernelRow<MoeAddArgs> moe_add_bf16_mxfp4_sm90_row();
KernelRow<AllReduceNormArgs> all_reduce_norm_row();
KernelRow<LinearSendArgs> linear_send_small_row();
KernelRow<MoeSendArgs> moe_send_bf16_mxfp4_small_row();
KernelRow<MoeSendArgs> moe_send_bf16_mxfp4_sm90_row();
KernelRow<MoeAddArgs> moe_add_bf16_mxfp4_chunks_row();
KernelRow<SampleArgs> sample_row();
KernelRow<SamplePartsArgs> sample_parts_row();
KernelRow<LinearArgs> linear_small_row();
KernelRow<LinearArgs> linear_cublaslt_row();
KernelRow<LinearArgs> linear_tiles_row();
KernelRow<LinearArgs> linear_fp8_small_row();
KernelRow<LinearArgs> linear_fp8_wide_row();
KernelRow<LinearArgs> linear_fp8_tiles_row();
KernelRow<LinearArgs> linear_any_row();
KernelRow<RopeTableArgs> rope_table_row();
KernelRow<RopeArgs> rope_row();
KernelRow<KvWriteArgs> kv_write_row();
KernelRow<AttentionArgs> attention_decode_row();
KernelRow<AttentionArgs> attention_flash_row();
KernelRow<AttentionArgs> attention_any_row();
KernelRow<RouterArgs> router_row();
KernelRow<MoeArgs> moe_bf16_mxfp4_small_row();
KernelRow<MoeArgs> moe_bf16_mxfp4_sm90_row();
KernelRow<MoeArgs> moe_bf16_mxfp4_chunks_row();
KernelRow<MoeArgs> moe_mxfp4_any_row();
KernelRow<MoeArgs> moe_any_row();

}  // namespace tessera::cuda
