// The elementwise ops: add, and the gated activation of dense models.
#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/elementwise.cc"
#include <hwy/foreach_target.h>

#include "kernels/cpu/values-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tessera::cpu::HWY_NAMESPACE {
namespace {

constexpr int64_t kGrain = 16384;  // elements of a task; a multiple of every vector length

Verdict supports_add(const AddArgs& a) {
  return require_cpu_floats({&a.x, &a.delta});
}

void launch_add(const AddArgs& a, Stream& stream) {
  stream.pool->parallel_for(a.x.numel(), kGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i += kLanes) {
      store(a.x, i, end - i, hn::Add(load(a.x, i, end - i), load(a.delta, i, end - i)));
    }
  });
}

Verdict supports_silu_mul(const SiluMulArgs& a) {
  return require_cpu_floats({&a.gate, &a.up, &a.out});
}

void launch_silu_mul(const SiluMulArgs& a, Stream& stream) {
  stream.pool->parallel_for(a.out.numel(), kGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i += kLanes) {
      const V gate = load(a.gate, i, end - i);
      store(a.out, i, end - i, hn::Mul(hn::Mul(gate, sigmoid(gate)), load(a.up, i, end - i)));
    }
  });
}

void add_rows(Kernels& kernels) {
  kernels.add.rows.push_back(
      {"add_any_" TS_ARCH, DeviceType::kCpu, "elementwise, any float types", supports_add, nullptr, launch_add});
  kernels.silu_mul.rows.push_back({"silu_mul_any_" TS_ARCH, DeviceType::kCpu, "elementwise, any float types",
                                   supports_silu_mul, nullptr, launch_silu_mul});
}

}  // namespace
}  // namespace tessera::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tessera::cpu {
HWY_EXPORT(add_rows);
void add_elementwise(Kernels& kernels, int64_t target) {
  TS_FOR_TARGET(add_rows, target)(kernels);
}
}  // namespace tessera::cpu
#endif
