// Reference linear layer: one serial sum an output.
#include "kernels/reference/rows.h"
#include "kernels/reference/values.h"

namespace tessera::reference {

namespace {

Verdict supports(const LinearArgs& a) {
  if (Verdict v = require_cpu_floats({&a.x, &a.bias, &a.out}); !v) return v;
  if (a.w.format == WeightFormat::kFp8Rows && a.w.values.device.type == DeviceType::kCpu) return kAccepted;
  return require_cpu_weight(a.w);
}

void launch(const LinearArgs& a, Stream&) {
  int64_t tokens = a.x.dim(0), n = a.w.n, k = a.w.k;
  for (int64_t row = 0; row < n; ++row) {
    for (int64_t t = 0; t < tokens; ++t) {
      double sum = 0;
      for (int64_t i = 0; i < k; ++i) sum += static_cast<double>(get(a.x, t * k + i)) * weight_at(a.w, 0, row, i);
      float value = static_cast<float>(sum);
      put(a.out, t * n + row, a.bias.defined() ? value + get(a.bias, row) : value);
    }
  }
}

}  // namespace

KernelRow<LinearArgs> linear_row() {
  return {"linear_any_any_ref",
          DeviceType::kCpu,
          "plain loops, any float types and weight formats",
          supports,
          nullptr,
          launch};
}

}  // namespace tessera::reference
