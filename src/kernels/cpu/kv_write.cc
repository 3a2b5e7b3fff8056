// Stores a step's keys and values into the paged cache.
#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/kv_write.cc"
#include <hwy/foreach_target.h>

#include "kernels/cpu/values-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tessera::cpu::HWY_NAMESPACE {
namespace {

Verdict supports(const KvWriteArgs& a) {
  if (Verdict v = require_cpu_cache(a.cache); !v) return v;
  return require_cpu_floats({&a.k, &a.v});
}

HWY_INLINE void copy(const Tensor& to, int64_t to_first, const Tensor& from, int64_t from_first, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const V values = load(from, from_first + i, n - i);
    if (to.dtype == DType::kF8E4M3) {
      store(to.as<E4M3>() + to_first + i, n - i, values);
    } else {
      store(to, to_first + i, n - i, values);
    }
  }
}

void launch(const KvWriteArgs& a, Stream& stream) {
  const int64_t heads = a.k.dim(1), d = a.k.dim(2), page_size = a.cache.page_size();
  stream.pool->parallel_for(
      a.k.dim(0), std::max<int64_t>(1, 16384 / (heads * d)), [&](int64_t begin, int64_t end, int) {
        for (int64_t row = begin * heads; row < end * heads; ++row) {
          const int64_t slot = a.slots.i32()[row / heads];
          if (slot < 0) continue;
          const int64_t to = ((slot / page_size * heads + row % heads) * page_size + slot % page_size) * d;
          copy(a.cache.k, to, a.k, row * d, d);
          copy(a.cache.v, to, a.v, row * d, d);
        }
      });
}

void add_rows(Kernels& kernels) {
  kernels.kv_write.rows.push_back({"kv_write_any_" TS_ARCH, DeviceType::kCpu,
                                   "any float types, converting to the cache's", supports, nullptr, launch});
}

}  // namespace
}  // namespace tessera::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tessera::cpu {
HWY_EXPORT(add_rows);
void add_kv_write(Kernels& kernels, int64_t target) {
  TS_FOR_TARGET(add_rows, target)(kernels);
}
}  // namespace tessera::cpu
#endif
