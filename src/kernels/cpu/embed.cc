// Embedding lookup: one row converted or copied a token.
#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/embed.cc"
#include <hwy/foreach_target.h>

#include "kernels/cpu/values-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tessera::cpu::HWY_NAMESPACE {
namespace {

Verdict supports(const EmbedArgs& a) {
  return require_cpu_floats({&a.table, &a.out});
}

void launch(const EmbedArgs& a, Stream& stream) {
  const int64_t n = a.out.dim(1);
  stream.pool->parallel_for(a.out.dim(0), 16, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t row = a.ids.i32()[t] * n;
      for (int64_t i = 0; i < n; i += kLanes) store(a.out, t * n + i, n - i, load(a.table, row + i, n - i));
    }
  });
}

void add_rows(Kernels& kernels) {
  kernels.embed.rows.push_back(
      {"embed_any_" TS_ARCH, DeviceType::kCpu, "one row a token, any float types", supports, nullptr, launch});
}

}  // namespace
}  // namespace tessera::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tessera::cpu {
HWY_EXPORT(add_rows);
void add_embed(Kernels& kernels, int64_t target) {
  TS_FOR_TARGET(add_rows, target)(kernels);
}
}  // namespace tessera::cpu
#endif
