// Rotary embedding in place, split-half pairing.
#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/rope.cc"
#include <hwy/foreach_target.h>

#include "kernels/cpu/values-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tessera::cpu::HWY_NAMESPACE {
namespace {

Verdict supports(const RopeArgs& a) {
  return require_cpu_floats({&a.x, &a.cos, &a.sin});
}

void launch(const RopeArgs& a, Stream& stream) {
  const int64_t heads = a.x.dim(1), d = a.x.dim(2), half = d / 2;
  stream.pool->parallel_for(a.x.dim(0), std::max<int64_t>(1, 16384 / (heads * d)),
                            [&](int64_t begin, int64_t end, int) {
                              for (int64_t row = begin * heads; row < end * heads; ++row) {
                                const int64_t table = row / heads * half, first = row * d, second = first + half;
                                for (int64_t i = 0; i < half; i += kLanes) {
                                  const V c = load(a.cos, table + i, half - i), s = load(a.sin, table + i, half - i);
                                  const V x = load(a.x, first + i, half - i), y = load(a.x, second + i, half - i);
                                  store(a.x, first + i, half - i, hn::Sub(hn::Mul(x, c), hn::Mul(y, s)));
                                  store(a.x, second + i, half - i, hn::Add(hn::Mul(y, c), hn::Mul(x, s)));
                                }
                              }
                            });
}

void add_rows(Kernels& kernels) {
  kernels.rope.rows.push_back({"rope_any_" TS_ARCH, DeviceType::kCpu, "in place, any float types and even head size",
                               supports, nullptr, launch});
}

}  // namespace
}  // namespace tessera::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tessera::cpu {
HWY_EXPORT(add_rows);
void add_rope(Kernels& kernels, int64_t target) {
  TS_FOR_TARGET(add_rows, target)(kernels);
}
}  // namespace tessera::cpu
#endif
