// The rows of the CUDA backend, best first. Linked when the build has CUDA; cuda_absent.cc stands in otherwise.
#include "kernels/cuda/rows.h"

namespace tessera {

namespace {

// cp.async, bf16 products of the matrix units.
template <class Row>
Row from_ampere(Row row) {
  row.least = 80;
  return row;
}

// wgmma, clusters: code that runs on no other generation.
template <class Row>
Row hopper_only(Row row) {
  row.least = row.most = 90;
  return row;
}

// MXFP4 and the rest of what the plain rows do.
template <class Row>
Row from_turing(Row row) {
  row.least = 75;
  return row;
}

}  // namespace

void add_cuda_kernels(Kernels& k) {
  using namespace cuda;
  k.embed.rows.push_back(embed_row());
  k.rms_norm.rows.push_back(rms_norm_row());
  k.add.rows.push_back(add_row());
  for (auto row : {linear_small_row(), linear_cublaslt_row(), linear_tiles_row(), linear_fp8_small_row(),
                   linear_fp8_wide_row(), linear_fp8_tiles_row()})
    k.linear.rows.push_back(from_ampere(row));
  k.linear.rows.push_back(linear_any_row());
  k.rope_table.rows.push_back(rope_table_row());
  k.rope.rows.push_back(rope_row());
  k.kv_write.rows.push_back(kv_write_row());
  for (auto row : {attention_decode_row(), attention_flash_row()}) k.attention.rows.push_back(from_ampere(row));
  k.attention.rows.push_back(attention_any_row());
  k.router.rows.push_back(router_row());
  for (auto row : {from_ampere(moe_bf16_mxfp4_small_row()), hopper_only(moe_bf16_mxfp4_sm90_row()),
                   from_ampere(moe_bf16_mxfp4_chunks_row()), from_turing(moe_mxfp4_any_row()), moe_any_row()})
    k.moe.rows.push_back(row);
  k.silu_mul.rows.push_back(silu_mul_row());
  k.join_columns.rows.push_back(join_columns_row());
  k.rope_kv.rows.push_back(rope_kv_row());
  for (auto row : {norm_router_few_row(), norm_router_row()}) k.norm_router.rows.push_back(hopper_only(row));
  k.rope_attention.rows.push_back(from_ampere(rope_attention_decode_row()));
  for (auto row : {from_ampere(moe_add_bf16_mxfp4_small_row()), hopper_only(moe_add_bf16_mxfp4_sm90_row()),
                   from_ampere(moe_add_bf16_mxfp4_chunks_row())})
    k.moe_add.rows.push_back(row);
  k.all_reduce_norm.rows.push_back(hopper_only(all_reduce_norm_row()));
  k.linear_send.rows.push_back(hopper_only(linear_send_small_row()));
  for (auto row : {moe_send_bf16_mxfp4_small_row(), moe_send_bf16_mxfp4_sm90_row()})
    k.moe_send.rows.push_back(hopper_only(row));
  k.sample.rows.push_back(sample_row());
  k.sample_parts.rows.push_back(sample_parts_row());
}

}  // namespace tessera
