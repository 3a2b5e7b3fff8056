// The rows of the CUDA backend, best first. Linked when the build has CUDA; cuda_absent.cc stands in otherwise.
#include "kernels/cuda/rows.h"

namespace tessera {

void add_cuda_kernels(Kernels& k) {
  using namespace cuda;
  k.embed.rows.push_back(embed_row());
  k.rms_norm.rows.push_back(rms_norm_row());
  k.add.rows.push_back(add_row());
  for (auto row : {linear_small_row(), linear_cublaslt_row(), linear_tiles_row(), linear_fp8_small_row(),
                   linear_fp8_wide_row(), linear_fp8_tiles_row(), linear_any_row()})
    k.linear.rows.push_back(row);
  k.rope_table.rows.push_back(rope_table_row());
  k.rope.rows.push_back(rope_row());
  k.kv_write.rows.push_back(kv_write_row());
  for (auto row : {attention_decode_row(), attention_flash_row(), attention_any_row()}) k.attention.rows.push_back(row);
  k.router.rows.push_back(router_row());
  for (auto row : {moe_bf16_mxfp4_small_row(), moe_bf16_mxfp4_sm90_row(), moe_any_row()}) k.moe.rows.push_back(row);
  k.silu_mul.rows.push_back(silu_mul_row());
  k.join_columns.rows.push_back(join_columns_row());
  k.rope_kv.rows.push_back(rope_kv_row());
  for (auto row : {norm_router_few_row(), norm_router_row()}) k.norm_router.rows.push_back(row);
  k.rope_attention.rows.push_back(rope_attention_decode_row());
  for (auto row : {moe_add_bf16_mxfp4_small_row(), moe_add_bf16_mxfp4_sm90_row()}) k.moe_add.rows.push_back(row);
  k.all_reduce_norm.rows.push_back(all_reduce_norm_row());
  k.sample.rows.push_back(sample_row());
}

}  // namespace tessera
