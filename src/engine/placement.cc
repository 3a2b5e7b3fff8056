#include "engine/placement.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <list>

#include "engine/device_map.h"
#include "kernels/arrange.h"
#include "loading/cast.h"
#include "loading/parallel_tasks.h"

namespace tessera {

namespace {

// Vectors are held as F32 on the host; the GPU's products want a bias in the type of their activations. Narrowed where
// that changes no value; the copies live in `kept`.
Tensor narrowed(const Tensor& t, DType activations, std::list<std::vector<uint16_t>>& kept) {
  if (t.dtype != DType::kF32 || activations == DType::kF32) return t;
  std::vector<uint16_t> narrow(static_cast<size_t>(t.numel()));
  std::vector<float> again(narrow.size());
  cast_values(t.data, DType::kF32, narrow.data(), activations, t.numel());
  cast_values(narrow.data(), activations, again.data(), DType::kF32, t.numel());
  if (std::memcmp(again.data(), t.data, static_cast<size_t>(t.bytes())) != 0) return t;
  kept.push_back(std::move(narrow));
  return {kept.back().data(), t.shape, activations, Device{}};
}

// As many as fill the link (a bare copy: 41 GB/s with 8, 45 with 16, 35 to 38 with 32).
constexpr int64_t kMaxLanes = 16;
constexpr int64_t kLaneBytes = 2 * kUploadBlockBytes;

void send_all(const std::vector<UploadPiece>& pieces, DeviceContext& context, ThreadPool& pool, const ReadBytes& read,
              LoadProgress& progress, PlacementReport& report) {
  std::atomic<size_t> next{0};
  const bool staged = std::any_of(pieces.begin(), pieces.end(), [](const UploadPiece& p) { return p.staged(); });
  const auto lanes =
      std::min<int64_t>(count_lanes(pool.size(), report.device_bytes, staged), static_cast<int64_t>(pieces.size()));
  report.pinned_bytes = lanes * kLaneBytes;
  report.staging_bytes = staged ? lanes * kLaneBytes : 0;
  parallel_tasks(pool, lanes, [&](int64_t) {
    std::unique_ptr<UploadLane> lane = make_upload_lane(context, kUploadBlockBytes, staged);
    for (size_t i = next++; i < pieces.size(); i = next++) {
      const UploadPiece& piece = pieces[i];
      const UploadLane::Block block = lane->begin();
      read(piece.values, piece.value_bytes, block.host);
      if (piece.scales) read(piece.scales, piece.scale_bytes, block.host + (piece.value_bytes + 255) / 256 * 256);
      cuda_send(piece, block, *lane);
      lane->end();
      progress.add(piece.value_bytes + piece.scale_bytes);
    }
    lane->finish();
  });
}

// Itself, or through an alias: tied embeddings are one matrix.
bool is_looked_up(const WeightPlan& plan, const WeightRow& row) {
  return row.looked_up || std::any_of(plan.rows().begin(), plan.rows().end(), [&](const WeightRow& other) {
           return other.kind == RowKind::kAlias && other.alias_of == row.name;
         });
}

// An alias and the rows that it takes of what it shares.
struct Shared {
  const WeightRow* alias = nullptr;
  const WeightRow* of = nullptr;
  int64_t first = 0, count = 0;
};

std::vector<Shared> shared_weights(const WeightPlan& plan) {
  std::vector<Shared> found;
  for (const WeightRow& row : plan.rows()) {
    if (row.kind != RowKind::kAlias) continue;
    for (const WeightRow& of : plan.rows()) {
      if (of.name != row.alias_of || !of.weight || of.kind == RowKind::kAlias) continue;
      const int64_t bytes = row.weight->values.as<char>() - of.weight->values.as<char>();
      found.push_back({&row, &of, bytes / of.weight->values.rows(0, 1).bytes(), row.weight->n});
    }
  }
  return found;
}

void point_aliases(const std::vector<Shared>& shared) {
  for (const Shared& s : shared) {
    *s.alias->weight = *s.of->weight;
    s.alias->weight->values = s.of->weight->values.rows(s.first, s.count);
    s.alias->weight->n = s.count;
  }
}

// The router decides by small differences, and an embedding's rows are picked: both stay as they are.
ArrangeOptions options_of(const WeightPlan& plan, const WeightRow& row, const ArrangeOptions& options) {
  ArrangeOptions o = options;
  o.fp8 = options.fp8 && row.kind == RowKind::kMatrix && row.split != Split::kReplicated && !is_looked_up(plan, row);
  return o;
}

ArrangedBytes count_bytes(const WeightPlan& plan, const ArrangeOptions& options) {
  ArrangedBytes all;
  for (const WeightRow& row : plan.rows()) {
    if (row.on_host) continue;
    if (row.tensor && row.tensor->defined()) all.bytes += row.tensor->bytes() + 256;
    if (!row.weight || row.kind == RowKind::kAlias) continue;
    const ArrangedBytes arranged = cuda_arranged_bytes(*row.weight, options_of(plan, row, options));
    all.bytes += arranged.bytes;
    all.pooled_scales += arranged.pooled_scales;
  }
  all.bytes += all.pooled_scales + 256;
  return all;
}

// Matrices, then vectors: a layer's q, k and v lie one after another, and their biases too, so that one product can
// compute them.
std::vector<UploadPiece> arrange_all(const WeightPlan& plan, const ArrangeOptions& options, int64_t pooled_scales,
                                     Arena& arena) {
  auto* scales = static_cast<float*>(arena.allocate(pooled_scales));
  std::vector<UploadPiece> pieces;
  for (const WeightRow& row : plan.rows())
    if (row.weight && row.kind != RowKind::kAlias && !row.on_host)
      *row.weight = cuda_arrange(*row.weight, options_of(plan, row, options), arena, scales, pieces);
  for (const WeightRow& row : plan.rows())
    if (row.tensor && row.tensor->defined() && !row.on_host) *row.tensor = cuda_place(*row.tensor, arena, pieces);
  return pieces;
}

}  // namespace

int64_t count_lanes(int64_t threads, int64_t device_bytes, bool staged) {
  const int64_t lanes = std::min(threads, kMaxLanes);
  return staged ? std::clamp<int64_t>(device_bytes * 15 / 1000 / kLaneBytes, 1, lanes) : lanes;
}

bool is_layers_expert(const WeightRow& row) {
  return row.split == Split::kExperts && layer_of_weight(row.name) >= 0;
}

void mark_hosted(const WeightPlan& plan) {
  for (const WeightRow& row : plan.rows())
    if (row.weight && row.kind != RowKind::kAlias) row.weight->hosted = row.on_host;
}

int64_t lay_out_weights(const WeightPlan& plan, const ArrangeOptions& options, Device device) {
  mark_hosted(plan);
  for (const WeightRow& row : plan.rows()) {
    if (row.on_host) continue;
    if (row.tensor && row.tensor->dtype == DType::kF32) row.tensor->dtype = options.activations;
    if (row.weight && row.weight->format == WeightFormat::kMxfp4) row.weight->max_scale = 0;
  }
  const std::vector<Shared> shared = shared_weights(plan);
  const ArrangedBytes all = count_bytes(plan, options);
  Arena arena = Arena::measuring(device);
  arrange_all(plan, options, all.pooled_scales, arena);
  point_aliases(shared);
  return all.bytes;
}

Arena place_weights(const WeightPlan& plan, const ArrangeOptions& options, DeviceContext& context, ThreadPool& pool,
                    const ReadBytes& read, PlacementReport* report, bool preallocate,
                    const LoadProgressCallback& on_progress) {
  const auto start = std::chrono::steady_clock::now();
  mark_hosted(plan);
  const std::vector<Shared> shared = shared_weights(plan);
  std::list<std::vector<uint16_t>> kept;
  for (const WeightRow& row : plan.rows())  // undefined: another rank's
    if (row.tensor && row.tensor->defined() && !row.on_host)
      *row.tensor = narrowed(*row.tensor, options.activations, kept);
  const ArrangedBytes all = count_bytes(plan, options);
  Arena arena = preallocate ? Arena(context, all.bytes) : Arena::scattered(context);
  const std::vector<UploadPiece> pieces = arrange_all(plan, options, all.pooled_scales, arena);
  point_aliases(shared);
  PlacementReport done{.device_bytes = all.bytes};
  for (const UploadPiece& piece : pieces) done.bytes += piece.value_bytes + piece.scale_bytes;
  LoadProgress progress(on_progress, done.bytes);
  send_all(pieces, context, pool, read, progress, done);
  progress.finish();
  done.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (report) *report = done;
  return arena;
}

}  // namespace tessera
