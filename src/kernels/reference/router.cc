// Reference router: repeated search for the best expert not yet taken.
#include "kernels/reference/rows.h"
#include "kernels/reference/values.h"

namespace tessera::reference {

namespace {

Verdict supports(const RouterArgs& a) {
  if (a.indices.defined() && a.indices.dim(1) > a.logits.dim(1)) return {"more active experts than experts"};
  return require_cpu_floats({&a.logits});
}

// True when expert e of this token was picked in one of the first `count` places.
bool taken(const int32_t* picked, int64_t count, int64_t e) {
  for (int64_t a = 0; a < count; ++a)
    if (picked[a] == e) return true;
  return false;
}

void route(const RouterArgs& a, int64_t t) {
  int64_t experts = a.logits.dim(1), active = a.indices.dim(1), row = t * experts;
  int32_t* picked = a.indices.i32() + t * active;
  float* weights = a.weights.f32() + t * active;
  for (int64_t i = 0; i < active; ++i) {
    int64_t best = -1;
    for (int64_t e = 0; e < experts; ++e)
      if (!taken(picked, i, e) && (best < 0 || get(a.logits, row + e) > get(a.logits, row + best))) best = e;
    picked[i] = static_cast<int32_t>(best);
  }
  float largest = get(a.logits, row + picked[0]);
  double all = 0, chosen = 0;
  for (int64_t e = 0; e < experts; ++e) all += std::exp(get(a.logits, row + e) - largest);
  for (int64_t i = 0; i < active; ++i) chosen += weights[i] = std::exp(get(a.logits, row + picked[i]) - largest);
  double sum = a.mode == RouterMode::kTopKOfSoftmax ? all : chosen;
  for (int64_t i = 0; i < active; ++i) weights[i] = rounded(a.logits.dtype, static_cast<float>(weights[i] / sum));
}

void launch(const RouterArgs& a, Stream&) {
  for (int64_t t = 0; t < a.logits.dim(0); ++t) route(a, t);
}

}  // namespace

KernelRow<RouterArgs> router_row() {
  return {"router_any_ref", DeviceType::kCpu, "plain loops, any float type and number of experts",
          supports,         nullptr,          launch};
}

}  // namespace tessera::reference
