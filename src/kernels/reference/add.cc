// Reference elementwise add.
#include "kernels/reference/rows.h"
#include "kernels/reference/values.h"

namespace tessera::reference {

namespace {

Verdict supports(const AddArgs& a) {
  return require_cpu_floats({&a.x, &a.delta});
}

void launch(const AddArgs& a, Stream&) {
  for (int64_t i = 0; i < a.x.numel(); ++i) put(a.x, i, get(a.x, i) + get(a.delta, i));
}

}  // namespace

KernelRow<AddArgs> add_row() {
  return {"add_any_ref", DeviceType::kCpu, "plain loops, any float types", supports, nullptr, launch};
}

}  // namespace tessera::reference
