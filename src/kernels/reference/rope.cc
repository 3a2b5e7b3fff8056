// Reference rotary embedding, split-half pairing.
#include "kernels/reference/rows.h"
#include "kernels/reference/values.h"

namespace tessera::reference {

namespace {

Verdict supports(const RopeArgs& a) {
  return require_cpu_floats({&a.x, &a.cos, &a.sin});
}

void launch(const RopeArgs& a, Stream&) {
  int64_t tokens = a.x.dim(0), heads = a.x.dim(1), d = a.x.dim(2), half = d / 2;
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t i = 0; i < half; ++i) {
        int64_t first = (t * heads + h) * d + i, second = first + half;
        float c = get(a.cos, t * half + i), s = get(a.sin, t * half + i);
        float x = get(a.x, first), y = get(a.x, second);
        put(a.x, first, x * c - y * s);
        put(a.x, second, y * c + x * s);
      }
    }
  }
}

}  // namespace

KernelRow<RopeArgs> rope_row() {
  return {"rope_any_ref", DeviceType::kCpu, "plain loops, any float types", supports, nullptr, launch};
}

}  // namespace tessera::reference
