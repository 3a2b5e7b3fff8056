// Reference embedding lookup.
#include "kernels/reference/rows.h"
#include "kernels/reference/values.h"

namespace tessera::reference {

namespace {

Verdict supports(const EmbedArgs& a) {
  return require_cpu_floats({&a.table, &a.out});
}

void launch(const EmbedArgs& a, Stream&) {
  int64_t tokens = a.out.dim(0), n = a.out.dim(1);
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t i = 0; i < n; ++i) put(a.out, t * n + i, get(a.table, a.ids.i32()[t] * n + i));
}

}  // namespace

KernelRow<EmbedArgs> embed_row() {
  return {"embed_any_ref", DeviceType::kCpu, "plain loops, any float types", supports, nullptr, launch};
}

}  // namespace tessera::reference
