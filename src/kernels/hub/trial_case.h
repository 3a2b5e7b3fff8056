// Random problems of the kinds that a Key names, on the host, for each op that a hub kernel may compute.
#pragma once

#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include "kernels/hub/layer_abi.h"
#include "kernels/hub/trial_memory.h"

namespace tessera::hub_kernels {

// Owns the host memory of a case's operands.
class CaseMemory {
 public:
  explicit CaseMemory(uint32_t seed) : random(seed) {}
  Tensor empty(DType type, Shape shape);
  Tensor normal(DType type, Shape shape, float scale = 1.0f);
  Tensor ints(Shape shape, const std::vector<int32_t>& values);
  Tensor copy(const Tensor& from);
  // Undefined for a key of -1.
  Tensor optional(int64_t type, Shape shape, float scale);
  Weight weight(WeightFormat format, DType type, int64_t experts, int64_t n, int64_t k);

  std::mt19937 random;

 private:
  std::vector<std::unique_ptr<char[]>> blocks_;
};

// `size` is 0, 1, 2: a problem of the kind with few tokens, some, more. Throws kUnsupported for a kind that cannot be
// tried.
template <class Args>
Args make_case(CaseMemory& memory, const Key& key, int size);

inline constexpr int kCaseSizes = 3;

// Calls f(tensor, name, role) for each operand, by reference.
template <class F>
void operands(RmsNormArgs& a, F&& f) {
  f(a.residual, "x", a.delta.defined() ? Role::kInOut : Role::kIn), f(a.delta, "delta", Role::kIn);
  f(a.weight, "weight", Role::kIn), f(a.out, "out", Role::kOut);
}
template <class F>
void operands(RopeArgs& a, F&& f) {
  f(a.x, "x", Role::kInOut), f(a.cos, "cos", Role::kIn), f(a.sin, "sin", Role::kIn);
}
template <class F>
void operands(SiluMulArgs& a, F&& f) {
  f(a.gate, "gate", Role::kIn), f(a.up, "up", Role::kIn), f(a.out, "out", Role::kOut);
}
template <class F>
void operands(AttentionArgs& a, F&& f) {
  f(a.q, "q", Role::kIn), f(a.cache.k, "k_cache", Role::kIn), f(a.cache.v, "v_cache", Role::kIn);
  f(a.page_table, "page_table", Role::kIn), f(a.query_start, "query_start", Role::kIn);
  f(a.context, "context", Role::kIn), f(a.sinks, "sinks", Role::kIn), f(a.out, "out", Role::kOut);
}
template <class F>
void operands(MoeArgs& a, F&& f) {
  f(a.x, "x", Role::kIn), f(a.indices, "indices", Role::kIn), f(a.weights, "weights", Role::kIn);
  f(a.gate_up.values, "gate_up", Role::kIn), f(a.gate_up.scales, "gate_up_scales", Role::kIn);
  f(a.gate_up_bias, "gate_up_bias", Role::kIn), f(a.down.values, "down", Role::kIn);
  f(a.down.scales, "down_scales", Role::kIn), f(a.down_bias, "down_bias", Role::kIn), f(a.out, "out", Role::kOut);
}

inline int64_t tokens_of(const RmsNormArgs& a) {
  return a.out.dim(0);
}
inline int64_t tokens_of(const RopeArgs& a) {
  return a.x.dim(0);
}
inline int64_t tokens_of(const SiluMulArgs& a) {
  return a.out.dim(0);
}
inline int64_t tokens_of(const AttentionArgs& a) {
  return a.out.dim(0);
}
inline int64_t tokens_of(const MoeArgs& a) {
  return a.out.dim(0);
}

// What a kernel may differ from the reference by, as a part of the largest value, besides one rounding of the stored
// type. Products with 16-bit activations may round what is between them.
template <class Args>
double tolerance(DType act) {
  constexpr bool products = std::is_same_v<Args, MoeArgs> || std::is_same_v<Args, AttentionArgs>;
  if (act == DType::kF32) return products ? 1e-4 : 1e-5;
  return products ? 1e-2 : 1e-3;
}

double value_of(const Tensor& t, int64_t i);

}  // namespace tessera::hub_kernels
