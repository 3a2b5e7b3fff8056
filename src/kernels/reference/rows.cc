// Puts the reference rows at the end of each op's table.
#include "kernels/reference/rows.h"

namespace tessera {

void add_reference_kernels(Kernels& kernels) {
  kernels.embed.rows.push_back(reference::embed_row());
  kernels.rms_norm.rows.push_back(reference::rms_norm_row());
  kernels.add.rows.push_back(reference::add_row());
  kernels.linear.rows.push_back(reference::linear_row());
  kernels.rope_table.rows.push_back(reference::rope_table_row());
  kernels.rope.rows.push_back(reference::rope_row());
  kernels.kv_write.rows.push_back(reference::kv_write_row());
  kernels.attention.rows.push_back(reference::attention_row());
  kernels.router.rows.push_back(reference::router_row());
  kernels.moe.rows.push_back(reference::moe_row());
  kernels.silu_mul.rows.push_back(reference::silu_mul_row());
  kernels.join_columns.rows.push_back(reference::join_columns_row());
  kernels.sample.rows.push_back(reference::sample_row());
}

void add_fused_reference_kernels(Kernels& kernels) {
  kernels.rope_kv.rows.push_back(reference::rope_kv_row());
  kernels.rope_attention.rows.push_back(reference::rope_attention_row());
  kernels.norm_router.rows.push_back(reference::norm_router_row());
  kernels.moe_add.rows.push_back(reference::moe_add_row());
  kernels.all_reduce_norm.rows.push_back(reference::all_reduce_norm_row());
  kernels.linear_send.rows.push_back(reference::linear_send_row());
  kernels.moe_send.rows.push_back(reference::moe_send_row());
  kernels.sample_parts.rows.push_back(reference::sample_parts_row());
}

}  // namespace tessera
