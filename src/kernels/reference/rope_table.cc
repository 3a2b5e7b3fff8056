// Cosines and sines of the rotary embedding. The C library's functions, since positions exceed the range of the usual
// vector approximations; the table is small and computed once a step.
#include "kernels/reference/rows.h"
#include "kernels/reference/values.h"

namespace tessera::reference {

namespace {

Verdict supports(const RopeTableArgs& a) {
  return require_cpu_floats({&a.inv_freq, &a.cos, &a.sin});
}

void launch(const RopeTableArgs& a, Stream&) {
  int64_t tokens = a.positions.dim(0), half = a.inv_freq.dim(0);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t i = 0; i < half; ++i) {
      float angle = static_cast<float>(a.positions.i32()[t]) * a.inv_freq.f32()[i];
      put(a.cos, t * half + i, std::cos(angle) * a.factor);
      put(a.sin, t * half + i, std::sin(angle) * a.factor);
    }
  }
}

}  // namespace

KernelRow<RopeTableArgs> rope_table_row() {
  return {"rope_table_any_ref",
          DeviceType::kCpu,
          "the C library's sine and cosine, any float types",
          supports,
          nullptr,
          launch};
}

}  // namespace tessera::reference
