// Reference residual add and RMS norm.
#include "kernels/reference/rows.h"
#include "kernels/reference/values.h"

namespace tessera::reference {

namespace {

Verdict supports(const RmsNormArgs& a) {
  return require_cpu_floats({&a.residual, &a.delta, &a.weight, &a.out});
}

void launch(const RmsNormArgs& a, Stream&) {
  int64_t tokens = a.residual.dim(0), n = a.residual.dim(1);
  for (int64_t t = 0; t < tokens; ++t) {
    double squares = 0;
    for (int64_t i = t * n; i < (t + 1) * n; ++i) {
      if (a.delta.defined()) put(a.residual, i, get(a.residual, i) + get(a.delta, i));
      float x = get(a.residual, i);
      squares += static_cast<double>(x) * x;
    }
    float inverse = 1.0f / std::sqrt(static_cast<float>(squares / static_cast<double>(n)) + a.eps);
    for (int64_t i = 0; i < n; ++i) {
      float x = get(a.residual, t * n + i) * inverse;
      if (a.round_before_weight) x = rounded(a.out.dtype, x);
      put(a.out, t * n + i, x * get(a.weight, i));
    }
  }
}

}  // namespace

KernelRow<RmsNormArgs> rms_norm_row() {
  return {"rms_norm_any_ref", DeviceType::kCpu, "plain loops, any float types", supports, nullptr, launch};
}

}  // namespace tessera::reference
