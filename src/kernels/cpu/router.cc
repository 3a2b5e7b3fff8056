// Router: repeated search for the best expert not yet taken, softmax with vectors.
#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/router.cc"
#include <hwy/foreach_target.h>

#include "kernels/cpu/values-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tessera::cpu::HWY_NAMESPACE {
namespace {

constexpr int64_t kMaxExperts = 1024;

Verdict supports(const RouterArgs& a) {
  if (a.logits.dim(1) > kMaxExperts) return {"more than 1024 experts"};
  if (a.indices.dim(1) > a.logits.dim(1)) return {"more active experts than experts"};
  return require_cpu_floats({&a.logits});
}

// Index of the largest logit that is not taken; the first of equals. One is always found, NaN or not.
int64_t best_expert(const float* logits, const bool* taken, int64_t experts) {
  int64_t best = -1;
  for (int64_t e = 0; e < experts; ++e)
    if (!taken[e] && (best < 0 || logits[e] > logits[best])) best = e;
  return best;
}

void route(const RouterArgs& a, int64_t t) {
  const F32 d;
  const int64_t experts = a.logits.dim(1), active = a.indices.dim(1);
  int32_t* picked = a.indices.i32() + t * active;
  float* weights = a.weights.f32() + t * active;
  HWY_ALIGN float logits[kMaxExperts];
  bool taken[kMaxExperts];
  for (int64_t i = 0; i < experts; i += kLanes) hn::Store(load(a.logits, t * experts + i, experts - i), d, logits + i);
  std::fill_n(taken, experts, false);
  for (int64_t i = 0; i < active; ++i) {
    picked[i] = static_cast<int32_t>(best_expert(logits, taken, experts));
    taken[picked[i]] = true;
  }
  const V largest = hn::Set(d, logits[picked[0]]);
  V all = hn::Zero(d);
  for (int64_t i = 0; i < experts; i += kLanes) {
    const V weight = hn::Exp(d, hn::Sub(hn::Load(d, logits + i), largest));
    hn::Store(weight, d, logits + i);
    all = hn::Add(all, hn::IfThenElseZero(hn::FirstN(d, static_cast<size_t>(std::min(experts - i, kLanes))), weight));
  }
  float chosen = 0;
  for (int64_t i = 0; i < active; ++i) chosen += weights[i] = logits[picked[i]];
  const V scale = hn::Set(d, a.mode == RouterMode::kTopKOfSoftmax ? sum(all) : chosen);
  for (int64_t i = 0; i < active; i += kLanes) {
    store(weights + i, active - i, rounded(a.logits.dtype, hn::Div(load(weights + i, active - i), scale)));
  }
}

void launch(const RouterArgs& a, Stream& stream) {
  stream.pool->parallel_for(a.logits.dim(0), 32, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) route(a, t);
  });
}

void add_rows(Kernels& kernels) {
  kernels.router.rows.push_back(
      {"router_any_" TS_ARCH, DeviceType::kCpu, "any float type, up to 1024 experts", supports, nullptr, launch});
}

}  // namespace
}  // namespace tessera::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tessera::cpu {
HWY_EXPORT(add_rows);
void add_router(Kernels& kernels, int64_t target) {
  TS_FOR_TARGET(add_rows, target)(kernels);
}
}  // namespace tessera::cpu
#endif
