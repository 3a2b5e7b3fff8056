// WeightPlan: every fact about a weight, written once, by its model. A row holds the checkpoint name, the global shape,
// how it may be split over a mesh and where the loaded view goes. Memory forecast, validation, loading, parallel plans,
// adapters, saving and `inspect` read rows.
//
// Not thread-safe while rows are added; const afterwards. Targets must outlive the plan.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"

namespace tessera {

// What a mesh may do with a weight [N, K] or a vector [N]; parallel/sharding.h says who gets what.
enum class Split : uint8_t {
  kReplicated,
  kQueryHeads,  // rows, by query heads (q, sinks)
  kKvHeads,     // rows, by kv heads (k, v)
  kHeadCols,    // columns, by query heads (o): partial sums meet in an all-reduce
  kInnerRows,   // rows, by the dense inner width (gate, up)
  kInnerCols,   // columns, likewise (down): partial sums meet in an all-reduce
  kVocabulary,  // rows, over all ranks (unembedding)
  kOnce,        // a bias that is added to partial sums: one rank of those that share the sum holds it
  kExperts,     // whole experts over the expert axis, and each expert's inner width, see ExpertInner
};

// Where an expert's inner width lies in a kExperts row.
enum class ExpertInner : uint8_t {
  kPairs,    // rows 2i and 2i+1 (gpt-oss's gate_up)
  kHalves,   // rows i and I+i (gates, then ups)
  kColumns,  // columns (down)
  kOnce,     // nowhere: a bias added to partial sums
};

// Attention's heads, of the rows that are split by them.
struct HeadCounts {
  int64_t query = 0, kv = 0, dim = 0;
};

enum class RowKind : uint8_t {
  kVector,      // Tensor [n] (norm, bias, sinks), or [E, n]
  kMatrix,      // Weight [n, k]; checkpoint tensor [n, k]
  kExperts,     // Weight [E, n, k]; checkpoint: <name>_blocks + <name>_scales (MXFP4), or <name> [E, k, n] plain
  kExpertList,  // Weight [E, n, k]; checkpoint: <name>.<e>.<member>.weight, members stacked along n
  kAlias,       // shares another row's weight (tied embeddings); nothing of its own in the checkpoint
};

struct WeightRow {
  RowKind kind = RowKind::kVector;
  std::string name;  // checkpoint name, without _blocks/_scales
  Shape shape;       // the loaded form: [n], [E, n], [n, k] or [E, n, k]
  Split split = Split::kReplicated;
  ExpertInner inner = ExpertInner::kPairs;  // of kExperts rows
  HeadCounts heads;                         // of rows split by heads
  bool quantizable = false;                 // may be stored as MXFP4
  bool looked_up = false;                   // rows are picked, not multiplied: the embedding
  std::vector<std::string> members;         // kExpertList: "gate_proj", "up_proj"
  Tensor* tensor = nullptr;                 // kVector target
  Weight* weight = nullptr;                 // other targets
  std::string alias_of;                     // kAlias: the row shared
  bool on_host = false;                     // stays in host memory whatever the device
};

class WeightPlan {
 public:
  // Names given below are relative to the prefix; it ends in '.' or is empty.
  void set_prefix(std::string prefix) { prefix_ = std::move(prefix); }

  // Of the rows split by heads that follow.
  void set_heads(HeadCounts heads) { heads_ = heads; }

  void vector(Tensor& target, std::string_view name, int64_t n, Split split = Split::kReplicated) {
    add(RowKind::kVector, name, {n}, split).tensor = &target;
  }
  void expert_vectors(Tensor& target, std::string_view name, int64_t experts, int64_t n,
                      ExpertInner inner = ExpertInner::kPairs) {
    WeightRow& row = add(RowKind::kVector, name, {experts, n}, Split::kExperts);
    row.tensor = &target;
    row.inner = inner;
  }
  void matrix(Weight& target, std::string_view name, int64_t n, int64_t k, Split split) {
    add(RowKind::kMatrix, name, {n, k}, split).weight = &target;
  }
  // Whole on every rank: summing its parts would cost every step an all-reduce, for a gigabyte at most.
  void table(Weight& target, std::string_view name, int64_t n, int64_t k) {
    WeightRow& row = add(RowKind::kMatrix, name, {n, k}, Split::kReplicated);
    row.weight = &target;
    row.looked_up = true;
  }
  void experts(Weight& target, std::string_view name, int64_t experts, int64_t n, int64_t k,
               ExpertInner inner = ExpertInner::kPairs) {
    WeightRow& row = add(RowKind::kExperts, name, {experts, n, k}, Split::kExperts);
    row.inner = inner;
    row.weight = &target;
    row.quantizable = true;
  }
  void expert_list(Weight& target, std::string_view name, std::vector<std::string> members, int64_t experts, int64_t n,
                   int64_t k) {
    WeightRow& row = add(RowKind::kExpertList, name, {experts, n, k}, Split::kExperts);
    row.weight = &target;
    row.inner = members.size() > 1 ? ExpertInner::kHalves : ExpertInner::kColumns;
    row.members = std::move(members);
  }
  void alias(Weight& target, std::string_view name, std::string_view of) {
    WeightRow& row = add(RowKind::kAlias, name, {}, Split::kVocabulary);
    row.weight = &target;
    row.alias_of = of;
  }

  const std::vector<WeightRow>& rows() const { return rows_; }

  // Which rows do not follow the model to its device: those for which stays(row) is true.
  template <class F>
  void keep_on_host(F&& stays) {
    for (WeightRow& row : rows_) row.on_host = stays(row);
  }

 private:
  WeightRow& add(RowKind kind, std::string_view name, Shape shape, Split split) {
    rows_.push_back(
        {.kind = kind, .name = prefix_ + std::string(name), .shape = shape, .split = split, .heads = heads_});
    return rows_.back();
  }

  std::string prefix_;
  HeadCounts heads_;
  std::vector<WeightRow> rows_;
};

}  // namespace tessera
