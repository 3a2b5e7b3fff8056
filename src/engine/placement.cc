#include "engine/placement.h"

#include <algorithm>
#include <chrono>

#include "kernels/arrange.h"
#include "loading/parallel_tasks.h"

namespace tessera {

namespace {

void send_all(const std::vector<UploadPiece>& pieces, DeviceContext& context, ThreadPool& pool, const ReadBytes& read) {
  std::atomic<size_t> next{0};
  const auto lanes = std::min<int64_t>(pool.size(), static_cast<int64_t>(pieces.size()));
  parallel_tasks(pool, lanes, [&](int64_t) {
    std::unique_ptr<UploadLane> lane = make_upload_lane(context, kUploadBlockBytes);
    for (size_t i = next++; i < pieces.size(); i = next++) {
      const UploadPiece& piece = pieces[i];
      const UploadLane::Block block = lane->begin();
      read(piece.values, piece.value_bytes, block.host);
      if (piece.scales) read(piece.scales, piece.scale_bytes, block.host + (piece.value_bytes + 255) / 256 * 256);
      cuda_send(piece, block, *lane);
      lane->end();
    }
    lane->finish();
  });
}

void point_aliases(const WeightPlan& plan) {
  for (const WeightRow& row : plan.rows()) {
    if (row.kind != RowKind::kAlias) continue;
    for (const WeightRow& shared : plan.rows())
      if (shared.name == row.alias_of && shared.weight && shared.kind != RowKind::kAlias) *row.weight = *shared.weight;
  }
}

}  // namespace

Arena place_weights(const WeightPlan& plan, DType activations, DeviceContext& context, ThreadPool& pool,
                    const ReadBytes& read, PlacementReport* report) {
  const auto start = std::chrono::steady_clock::now();
  int64_t bytes = 0;
  for (const WeightRow& row : plan.rows()) {
    if (row.tensor) bytes += row.tensor->bytes() + 256;
    if (row.weight && row.kind != RowKind::kAlias) bytes += cuda_arranged_bytes(*row.weight, activations);
  }
  Arena arena(context, bytes);
  std::vector<UploadPiece> pieces;
  for (const WeightRow& row : plan.rows()) {
    if (row.tensor) *row.tensor = cuda_place(*row.tensor, arena, pieces);
    if (row.weight && row.kind != RowKind::kAlias) *row.weight = cuda_arrange(*row.weight, activations, arena, pieces);
  }
  point_aliases(plan);
  send_all(pieces, context, pool, read);
  if (report) {
    for (const UploadPiece& piece : pieces) report->bytes += piece.value_bytes + piece.scale_bytes;
    report->device_bytes = bytes;
    report->seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  return arena;
}

}  // namespace tessera
