#include "kernels/hub/kinds.h"

#include <fmt/format.h>

#include <cmath>

namespace tessera::hub_kernels {

namespace {

int64_t code(DType t) {
  return static_cast<int64_t>(t);
}

}  // namespace

std::vector<Kind> usual_kinds(const Layer& layer, DeviceType device, bool second) {
  constexpr int64_t kHidden = 2880, kHeads = 64, kKvHeads = 8, kHeadDim = 64, kPage = 32, kExperts = 32, kActive = 4;
  const bool gpu = device == DeviceType::kCuda;
  const std::string_view op = layer.op;
  std::vector<Kind> out;
  for (DType act : {DType::kBF16, DType::kF32}) {
    const std::string_view name = dtype_name(act);
    // Vectors are F32 on a CPU; on a GPU they have the activations' type.
    const int64_t a = code(act), vector = gpu ? a : code(DType::kF32);
    if (op == "rms_norm")
      out.push_back({fmt::format("[T, {}] {}", kHidden, name), {a, vector, kHidden, key_of(1e-5f), second}});
    if (op == "rope") out.push_back({fmt::format("[T, {}, {}] {}", kHeads, kHeadDim, name), {a, a, kHeads, kHeadDim}});
    if (op == "silu_mul") out.push_back({fmt::format("[T, {}] {}", kHidden, name), {a, kHidden}});
    if (op == "attention") {
      for (int64_t window : {0, 128}) {
        out.push_back(
            {fmt::format("{} query, {} key heads of {}, window {}, {}", kHeads, kKvHeads, kHeadDim, window, name),
             {a, a, vector, kHeads, kKvHeads, kHeadDim, kPage, window,
              key_of(1.0f / std::sqrt(static_cast<float>(kHeadDim)))}});
      }
    }
    if (op == "moe") {
      const auto format = gpu && act == DType::kBF16 ? WeightFormat::kMxfp4Atoms : WeightFormat::kMxfp4;
      out.push_back({fmt::format("{} experts of [{}, {}] MXFP4, {} active, {}{}", kExperts, 2 * kHidden, kHidden,
                                 kActive, name, second ? ", a part of the model's" : ""),
                     {a, vector, vector, static_cast<int64_t>(format), code(DType::kU8), static_cast<int64_t>(format),
                      kExperts, kActive, kHidden, kHidden, 0, key_of(7.0f), second}});
    }
  }
  return out;
}

}  // namespace tessera::hub_kernels
