// Reference join of logits that several ranks computed.
#include <algorithm>

#include "kernels/reference/rows.h"
#include "kernels/reference/values.h"

namespace tessera::reference {

namespace {

Verdict supports(const JoinColumnsArgs& a) {
  return require_cpu_floats({&a.parts, &a.out});
}

void launch(const JoinColumnsArgs& a, Stream&) {
  const int64_t step = a.parts.numel() / a.parts.dim(0);
  int64_t column = 0;
  for (int64_t p = 0; p < a.parts.dim(0); ++p) {
    const int64_t width = p < a.wide_parts ? a.wide : a.narrow;
    for (int64_t r = 0; r < a.out.dim(0); ++r)
      std::copy_n(a.parts.f32() + p * step + r * width, width, a.out.f32() + r * a.out.dim(1) + column);
    column += width;
  }
}

}  // namespace

KernelRow<JoinColumnsArgs> join_columns_row() {
  return {"join_columns_f32_ref", DeviceType::kCpu, "copies rows", supports, nullptr, launch};
}

}  // namespace tessera::reference
