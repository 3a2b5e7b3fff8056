// What comm_check works on: buffers of a GPU that the host knows too, values that every rank can compute, and tokens on
// their way to experts.
#pragma once

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "core/dtype.h"
#include "kernels/cuda/launch.h"
#include "parallel/communicator.h"
#include "parallel/mesh.h"

namespace tessera {

constexpr int64_t kHidden = 2880;

// A GPU buffer and what the host knows of it.
class Memory {
 public:
  Memory(DType dtype, Shape shape, int device) : host_(static_cast<size_t>(shape.numel() * dtype_size(dtype))) {
    tensor_ = {.data = nullptr, .shape = shape, .dtype = dtype, .device = {DeviceType::kCuda, device}};
    cuda::check(cudaMalloc(&tensor_.data, std::max<size_t>(host_.size(), 256)), "memory");
  }
  ~Memory() { cudaFree(tensor_.data); }
  Memory(const Memory&) = delete;
  const Tensor& tensor() const { return tensor_; }
  void put(int64_t i, float v) {
    if (tensor_.dtype == DType::kF32)
      reinterpret_cast<float*>(host_.data())[i] = v;
    else
      reinterpret_cast<uint16_t*>(host_.data())[i] = float_to_bf16(v);
  }
  float get(int64_t i) const {
    return tensor_.dtype == DType::kF32 ? reinterpret_cast<const float*>(host_.data())[i]
                                        : bf16_to_float(reinterpret_cast<const uint16_t*>(host_.data())[i]);
  }
  void up() {
    cuda::check(cudaMemcpy(tensor_.data, host_.data(), host_.size(), cudaMemcpyHostToDevice), "up");
    // The copy returns before its last bytes are there, and no other stream waits for it.
    cuda::check(cudaDeviceSynchronize(), "up");
  }
  void down() { cuda::check(cudaMemcpy(host_.data(), tensor_.data, host_.size(), cudaMemcpyDeviceToHost), "down"); }

 private:
  Tensor tensor_;
  std::vector<char> host_;
};

inline float value_of(uint32_t seed, int rank, int64_t i) {
  uint32_t h = seed * 2654435761u + static_cast<uint32_t>(rank) * 40503u + static_cast<uint32_t>(i) * 2246822519u;
  h ^= h >> 15, h *= 2246822519u, h ^= h >> 13;
  return static_cast<float>(static_cast<int32_t>(h)) * 1e-9f;
}
inline float stored(DType dtype, float v) {
  return dtype == DType::kF32 ? v : bf16_to_float(float_to_bf16(v));
}
inline float sum_of(uint32_t seed, int ranks, DType dtype, int64_t i) {
  float sum = stored(dtype, value_of(seed, 0, i));
  for (int r = 1; r < ranks; ++r) sum += stored(dtype, value_of(seed, r, i));
  return stored(dtype, sum);
}

// Values of a plain type on a GPU.
template <class T>
class Array {
 public:
  Array(DType dtype, Shape shape, int device) : values(static_cast<size_t>(shape.numel())) {
    tensor_ = {.data = nullptr, .shape = shape, .dtype = dtype, .device = {DeviceType::kCuda, device}};
    cuda::check(cudaMalloc(&tensor_.data, std::max<size_t>(values.size() * sizeof(T), 256)), "memory");
  }
  ~Array() { cudaFree(tensor_.data); }
  Array(const Array&) = delete;
  const Tensor& tensor() const { return tensor_; }
  void up() {
    cuda::check(cudaMemcpy(tensor_.data, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice), "up");
    cuda::check(cudaDeviceSynchronize(), "up");
  }
  void down() { cuda::check(cudaMemcpy(values.data(), tensor_.data, values.size() * sizeof(T), cudaMemcpyDeviceToHost), "down"); }
  std::vector<T> values;

 private:
  Tensor tensor_;
};

constexpr int64_t kExperts = 32, kActive = 4;
enum class Routing { kRandom, kAllToFirst, kAllToLast };

inline int32_t expert_of(Routing routing, uint32_t seed, int ranks, int group, int64_t token, int64_t slot) {
  if (routing == Routing::kAllToFirst) return static_cast<int32_t>(slot);
  if (routing == Routing::kAllToLast) return static_cast<int32_t>(kExperts - kActive + slot);
  const float h = value_of(seed, group * ranks + 1, token);
  return static_cast<int32_t>((static_cast<int64_t>((h + 10.0f) * 1e5f) + slot * 9) % kExperts);
}

// One layer's tokens on their way: those of one rank's group, and room for all groups'.
struct Journey {
  Journey(DType dtype, std::vector<int64_t> group_tokens, int ranks, int rank, Routing how, uint32_t number, int device)
      : tokens(std::move(group_tokens)),
        groups(static_cast<int>(tokens.size())),
        group_ranks(ranks / groups),
        group(rank / group_ranks),
        routing(how),
        seed(number),
        size(ranks),
        total(std::accumulate(tokens.begin(), tokens.end(), int64_t{0})),
        x(dtype, {tokens[group], kHidden}, device),
        inbox(dtype, {total, kHidden}, device),
        out(dtype, {tokens[group], kHidden}, device),
        indices(DType::kI32, {tokens[group], kActive}, device),
        ids(DType::kI32, {total, kActive}, device),
        live(DType::kI32, {1}, device),
        weights(DType::kF32, {tokens[group], kActive}, device),
        came(DType::kF32, {total, kActive}, device) {
    for (int64_t i = 0; i < tokens[group] * kHidden; ++i) x.put(i, value_of(seed, group, i));
    for (int64_t i = 0; i < tokens[group] * kActive; ++i) {
      indices.values[i] = expert(group, i / kActive, i % kActive);
      weights.values[i] = value_of(seed + 1, group, i);
    }
    live.values[0] = static_cast<int32_t>(live_of(group));
    x.up(), indices.up(), weights.up(), live.up();
  }
  // Odd groups are filled up with one that is no token.
  int64_t live_of(int g) const { return tokens[g] - g % 2; }
  int32_t expert(int g, int64_t token, int64_t slot) const { return expert_of(routing, seed, size, g, token, slot); }
  bool needs(int g, int64_t token, int rank) const {
    const Range held = share(kExperts, size, rank);
    bool any = false;
    for (int64_t a = 0; a < kActive; ++a) {
      const int32_t e = expert(g, token, a);
      any = any || (e >= held.begin && e < held.end());
    }
    return any && token < live_of(g);
  }
  TokenRoutes routes() const {
    return {.indices = indices.tensor(),
            .weights = weights.tensor(),
            .live = live.tensor(),
            .group_tokens = tokens,
            .experts = kExperts};
  }
  void dispatch(Communicator& c, void* stream) {
    c.dispatch(routes(), x.tensor(), inbox.tensor(), ids.tensor(), came.tensor(), stream);
  }
  void combine(Communicator& c, void* stream) {
    c.combine(routes(), inbox.tensor(), ids.tensor(), out.tensor(), stream);
  }

  std::vector<int64_t> tokens;
  int groups, group_ranks, group;
  Routing routing;
  uint32_t seed;
  int size;
  int64_t total;
  Memory x, inbox, out;
  Array<int32_t> indices, ids, live;
  Array<float> weights, came;
};

}  // namespace tessera
