// Residual add and RMS norm, one row a task: a row's sum of squares is one vector accumulator.
#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/rms_norm.cc"
#include <hwy/foreach_target.h>

#include "kernels/cpu/values-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tessera::cpu::HWY_NAMESPACE {
namespace {

Verdict supports(const RmsNormArgs& a) {
  return require_cpu_floats({&a.residual, &a.delta, &a.weight, &a.out});
}

void row(const RmsNormArgs& a, int64_t t) {
  const F32 d;
  const int64_t n = a.residual.dim(1), first = t * n;
  V squares = hn::Zero(d);
  for (int64_t i = 0; i < n; i += kLanes) {
    V x = load(a.residual, first + i, n - i);
    if (a.delta.defined()) {
      x = hn::Add(x, load(a.delta, first + i, n - i));
      store(a.residual, first + i, n - i, x);
      x = rounded(a.residual.dtype, x);
    }
    squares = hn::MulAdd(x, x, squares);
  }
  const V inverse = hn::Set(d, 1.0f / std::sqrt(sum(squares) / static_cast<float>(n) + a.eps));
  for (int64_t i = 0; i < n; i += kLanes) {
    V x = hn::Mul(load(a.residual, first + i, n - i), inverse);
    if (a.round_before_weight) x = rounded(a.out.dtype, x);
    store(a.out, first + i, n - i, hn::Mul(x, load(a.weight, i, n - i)));
  }
}

void launch(const RmsNormArgs& a, Stream& stream) {
  const int64_t grain = std::max<int64_t>(1, 16384 / a.residual.dim(1));
  stream.pool->parallel_for(a.residual.dim(0), grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) row(a, t);
  });
}

void add_rows(Kernels& kernels) {
  kernels.rms_norm.rows.push_back({"rms_norm_any_" TS_ARCH, DeviceType::kCpu,
                                   "residual add and norm in one pass, any float types", supports, nullptr, launch});
}

}  // namespace
}  // namespace tessera::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tessera::cpu {
HWY_EXPORT(add_rows);
void add_rms_norm(Kernels& kernels, int64_t target) {
  TS_FOR_TARGET(add_rows, target)(kernels);
}
}  // namespace tessera::cpu
#endif
