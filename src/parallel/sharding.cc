#include "parallel/sharding.h"

#include <algorithm>

#include "core/error.h"

namespace tessera {

namespace {

constexpr int64_t kVocabularyUnit = 8;  // 16 bytes of bf16 logits

// The row's three sizes; what it lacks is 1.
struct Sizes {
  int64_t experts = 1, n = 1, k = 1;
};

Sizes sizes_of(const WeightRow& row) {
  const Shape& s = row.shape;
  if (row.kind == RowKind::kVector) return s.rank() == 2 ? Sizes{s[0], s[1], 1} : Sizes{1, s[0], 1};
  return s.rank() == 3 ? Sizes{s[0], s[1], s[2]} : Sizes{1, s[0], s[1]};
}

Range scaled(Range r, int64_t by) {
  return {r.begin * by, r.count * by};
}

void slice_experts(const WeightRow& row, const Mesh& mesh, int rank, const Sizes& size, RowSlice& out) {
  out.experts = expert_share(size.experts, mesh, rank);
  auto inner = [&](int64_t width) { return mesh.inner_share(width, mesh.inner(), mesh.inner_index(rank)); };
  switch (row.inner) {
    case ExpertInner::kPairs:
      out.rows = scaled(inner(size.n / 2), 2);
      break;
    case ExpertInner::kHalves:
      out.rows = inner(size.n / 2);
      out.more_rows = {size.n / 2 + out.rows.begin, out.rows.count};
      break;
    case ExpertInner::kColumns:
      out.columns = inner(size.k);
      break;
    case ExpertInner::kOnce:
      out.held = mesh.inner_index(rank) == 0;
      break;
  }
  if (out.more_rows.count > 0 && out.rows.end() == out.more_rows.begin) {  // all of it
    out.rows.count = size.n;
    out.more_rows = {};
  }
}

}  // namespace

RowSlice whole_of(const WeightRow& row) {
  const Sizes size = sizes_of(row);
  return {.experts = {0, size.experts}, .rows = {0, size.n}, .columns = {0, size.k}};
}

RowSlice slice_of(const WeightRow& row, const Mesh& mesh, int rank) {
  const Sizes size = sizes_of(row);
  RowSlice out = whole_of(row);
  const int tensor = mesh.tensor_index(rank);
  auto heads = [&] { return share_heads(row.heads.query, row.heads.kv, mesh.tensor, tensor); };
  // Sinks have one entry a head, projections `dim`.
  auto by_heads = [&](Range r, int64_t all, int64_t length) { return scaled(r, length / all); };
  switch (row.split) {
    case Split::kReplicated:
      break;
    case Split::kQueryHeads:
      out.rows = by_heads(heads().query, row.heads.query, size.n);
      break;
    case Split::kKvHeads:
      out.rows = by_heads(heads().kv, row.heads.kv, size.n);
      break;
    case Split::kHeadCols:
      out.columns = by_heads(heads().query, row.heads.query, size.k);
      break;
    case Split::kInnerRows:
      out.rows = mesh.inner_share(size.n, mesh.tensor, tensor);
      break;
    case Split::kInnerCols:
      out.columns = mesh.inner_share(size.k, mesh.tensor, tensor);
      break;
    case Split::kVocabulary:
      out.rows = vocabulary_share(size.n, mesh, rank);
      break;
    case Split::kOnce:
      out.held = tensor == 0;
      break;
    case Split::kExperts:
      slice_experts(row, mesh, rank, size, out);
      break;
  }
  return out;
}

Shape slice_shape(const WeightRow& row, const RowSlice& slice) {
  const bool experts = row.split == Split::kExperts;
  if (row.kind == RowKind::kVector)
    return experts ? Shape{slice.experts.count, slice.row_count()} : Shape{slice.row_count()};
  return experts ? Shape{slice.experts.count, slice.row_count(), slice.columns.count}
                 : Shape{slice.row_count(), slice.columns.count};
}

Range vocabulary_share(int64_t vocabulary, const Mesh& mesh, int rank) {
  const bool whole = vocabulary % kVocabularyUnit == 0 && vocabulary / kVocabularyUnit >= mesh.ranks();
  return share(vocabulary, mesh.ranks(), rank, whole ? kVocabularyUnit : 1);
}

Range expert_share(int64_t experts, const Mesh& mesh, int rank) {
  return share(experts, mesh.expert, mesh.expert_index(rank));
}

MeshDemand mesh_demand(const WeightPlan& plan) {
  MeshDemand d;
  for (const WeightRow& row : plan.rows()) {
    if (row.split == Split::kQueryHeads) d.heads = row.heads.query, d.kv_heads = row.heads.kv;
    if (row.split == Split::kExperts) d.experts = std::max(d.experts, row.shape[0]);
    if (row.split == Split::kInnerCols) d.dense_inner = row.shape[1];
    if (row.looked_up) d.vocabulary = row.shape[0];
  }
  return d;
}

void check_mesh(const Mesh& mesh, const WeightPlan& plan) {
  const MeshDemand demand = mesh_demand(plan);
  const std::string why = why_impossible(mesh, demand);
  if (why.empty()) return;
  std::string near;
  for (const Mesh& m : nearest_meshes(mesh, demand, 3))
    near += fmt::format("{}--tp {} --ep {}", near.empty() ? "" : ", ", m.tensor, m.expert);
  fail(ErrorCode::kInvalidArgument, "{}; the nearest possible: {}", why, near);
}

}  // namespace tessera
