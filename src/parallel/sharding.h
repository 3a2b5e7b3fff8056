// Which part of every weight a rank holds: the rows of a WeightPlan and a Mesh, and nothing else. Loading, memory
// forecasts and `tessera plan` all ask here. Pure.
#pragma once

#include "parallel/mesh.h"
#include "parallel/weight_plan.h"

namespace tessera {

// A rank's part of a row: some experts, of each the same rows and columns. Vectors [n] have k = {0, 1}; vectors [E, n]
// and matrices likewise use what they have; what a row lacks is {0, 1}.
struct RowSlice {
  Range experts{0, 1};
  Range rows;       // first range
  Range more_rows;  // of gates and ups that lie apart: the ups; else count 0
  Range columns{0, 1};
  bool held = true;  // false: another rank of the sum holds it, and this one nothing

  int64_t row_count() const { return rows.count + more_rows.count; }
  int64_t numel() const { return held ? experts.count * row_count() * columns.count : 0; }
};

// REQUIRES: the mesh is possible for the model.
RowSlice slice_of(const WeightRow& row, const Mesh& mesh, int rank);
// The whole row, as one slice.
RowSlice whole_of(const WeightRow& row);
// The loaded form of a slice of the row.
Shape slice_shape(const WeightRow& row, const RowSlice& slice);

// Of [0, V), the tokens whose logits a rank computes; and of the experts, those it holds.
Range vocabulary_share(int64_t vocabulary, const Mesh& mesh, int rank);
Range expert_share(int64_t experts, const Mesh& mesh, int rank);

// What the mesh check asks of a model's rows.
MeshDemand mesh_demand(const WeightPlan& plan);
// Throws kInvalidArgument with the reason and the nearest possible meshes.
void check_mesh(const Mesh& mesh, const WeightPlan& plan);

}  // namespace tessera
