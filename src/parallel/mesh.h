// Mesh: which ranks hold which share of a model. T ranks split attention and dense layers; E groups of ranks hold the
// experts, contiguously, and the ranks of a group split each expert's inner width; all of them split the unembedding.
// Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tessera {

struct Range {
  int64_t begin = 0, count = 0;
  int64_t end() const { return begin + count; }
  bool operator==(const Range&) const = default;
};

// Part `index` of [0, n) in whole units; the first parts get what is left over. REQUIRES: unit divides n.
Range share(int64_t n, int64_t parts, int64_t index, int64_t unit = 1);

struct Mesh {
  int tensor = 1;
  int expert = 1;
  // Where T < ranks, several groups of T hold the same. False: they compute the same; true: each has sequences of its
  // own, with their cache, and all but the experts.
  bool split_tokens = false;
  // Inner widths are split by this many columns where they allow it, never by fewer than `least_unit`: the block of
  // MXFP4, whose scale cannot be split, and what a GPU's matrix units take at once.
  int64_t unit = 1, least_unit = 1;

  int ranks() const { return tensor > expert ? tensor : expert; }
  int inner() const { return ranks() / expert; }  // ranks that share an expert
  int tensor_index(int rank) const { return rank % tensor; }
  int replica(int rank) const { return rank / tensor; }
  int replicas() const { return ranks() / tensor; }
  int expert_index(int rank) const { return rank / inner(); }
  int inner_index(int rank) const { return rank % inner(); }

  // Of an inner width split over `parts` ranks.
  Range inner_share(int64_t width, int parts, int index) const;
};

struct HeadShare {
  Range query, kv;
};

// Kv heads in order, as evenly as they go, each with its query heads. More parts than kv heads: several parts hold the
// same kv head and split its query heads. REQUIRES: parts <= heads.
HeadShare share_heads(int64_t heads, int64_t kv_heads, int64_t parts, int64_t index);

// What must be known of a model to say whether a mesh fits it.
struct MeshDemand {
  int64_t heads = 0, kv_heads = 0;
  int64_t experts = 0;  // 0: a dense model
  int64_t vocabulary = 0;
  int64_t dense_inner = 0;  // 0: no dense feed-forward layer
};

// Empty, or one line why the mesh is impossible.
std::string why_impossible(const Mesh& mesh, const MeshDemand& demand);

// The possible (T, E) next to an impossible one, nearest first, at most `count`.
std::vector<Mesh> nearest_meshes(const Mesh& mesh, const MeshDemand& demand, int count);

}  // namespace tessera
