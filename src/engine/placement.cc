#include "engine/placement.h"

#include <algorithm>

#include "kernels/arrange.h"

namespace tessera {

Arena place_weights(const WeightPlan& plan, DType activations, DeviceContext& context) {
  int64_t bytes = 0, temporary_bytes = 0;
  for (const WeightRow& row : plan.rows()) {
    if (row.tensor) bytes += row.tensor->bytes() + 256;
    if (row.kind == RowKind::kAlias || !row.weight) continue;
    ArrangeSizes sizes = cuda_arrange_sizes(*row.weight, activations);
    bytes += sizes.bytes;
    temporary_bytes = std::max(temporary_bytes, sizes.temporary_bytes);
  }
  Arena arena(context, bytes);
  Arena temporary(context, temporary_bytes);
  void* staging = temporary.allocate(temporary_bytes);
  for (const WeightRow& row : plan.rows()) {
    if (row.tensor) {
      Tensor on_device = arena.tensor(row.tensor->dtype, row.tensor->shape);
      context.to_device(on_device.data, row.tensor->data, row.tensor->bytes());
      *row.tensor = on_device;
    } else if (row.kind != RowKind::kAlias) {
      *row.weight = cuda_arrange(*row.weight, activations, context, arena, staging);
    }
  }
  for (const WeightRow& row : plan.rows()) {
    if (row.kind != RowKind::kAlias) continue;
    for (const WeightRow& shared : plan.rows())
      if (shared.name == row.alias_of && shared.weight && shared.kind != RowKind::kAlias) *row.weight = *shared.weight;
  }
  context.synchronize();
  return arena;
}

}  // namespace tessera
