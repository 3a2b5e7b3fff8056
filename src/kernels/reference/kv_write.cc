// Reference store of keys and values into the paged cache.
#include "kernels/reference/rows.h"
#include "kernels/reference/values.h"

namespace tessera::reference {

namespace {

Verdict supports(const KvWriteArgs& a) {
  if (Verdict v = require_cpu_cache(a.cache); !v) return v;
  return require_cpu_floats({&a.k, &a.v});
}

void launch(const KvWriteArgs& a, Stream&) {
  int64_t tokens = a.k.dim(0), heads = a.k.dim(1), d = a.k.dim(2), page_size = a.cache.page_size();
  for (int64_t t = 0; t < tokens; ++t) {
    int64_t slot = a.slots.i32()[t];
    if (slot < 0) continue;
    for (int64_t h = 0; h < heads; ++h) {
      int64_t to = ((slot / page_size * heads + h) * page_size + slot % page_size) * d, from = (t * heads + h) * d;
      for (int64_t i = 0; i < d; ++i) {
        put(a.cache.k, to + i, get(a.k, from + i));
        put(a.cache.v, to + i, get(a.v, from + i));
      }
    }
  }
}

}  // namespace

KernelRow<KvWriteArgs> kv_write_row() {
  return {"kv_write_any_ref", DeviceType::kCpu, "plain loops, any float types", supports, nullptr, launch};
}

}  // namespace tessera::reference
