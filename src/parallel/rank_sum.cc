#include "parallel/rank_sum.h"

#include <algorithm>

#include "core/error.h"

namespace tessera {

namespace {

constexpr int64_t kRun = 512;  // values summed at a time, so that the sums stay in the first-level cache

float load(float v) {
  return v;
}
float load(uint16_t v) {
  return bf16_to_float(v);
}
void store(float v, float* to) {
  *to = v;
}
void store(float v, uint16_t* to) {
  *to = float_to_bf16(v);
}

template <class T>
void sum(std::span<void* const> in, std::span<void* const> out, int64_t begin, int64_t end) {
  float acc[kRun];
  for (int64_t at = begin; at < end; at += kRun) {
    const int64_t n = std::min(kRun, end - at);
    const T* first = static_cast<const T*>(in[0]) + at;
    for (int64_t i = 0; i < n; ++i) acc[i] = load(first[i]);
    for (size_t r = 1; r < in.size(); ++r) {
      const T* x = static_cast<const T*>(in[r]) + at;
      for (int64_t i = 0; i < n; ++i) acc[i] += load(x[i]);
    }
    for (void* to : out)
      for (int64_t i = 0; i < n; ++i) store(acc[i], static_cast<T*>(to) + at + i);
  }
}

}  // namespace

void rank_sum(DType dtype, std::span<void* const> in, std::span<void* const> out, int64_t begin, int64_t end) {
  TS_CHECK(dtype == DType::kF32 || dtype == DType::kBF16, "a sum over ranks is F32 or BF16, not {}", dtype_name(dtype));
  if (dtype == DType::kF32)
    sum<float>(in, out, begin, end);
  else
    sum<uint16_t>(in, out, begin, end);
}

}  // namespace tessera
