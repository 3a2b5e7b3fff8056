// Reference gated activation of dense models.
#include "kernels/reference/rows.h"
#include "kernels/reference/values.h"

namespace tessera::reference {

namespace {

Verdict supports(const SiluMulArgs& a) {
  return require_cpu_floats({&a.gate, &a.up, &a.out});
}

void launch(const SiluMulArgs& a, Stream&) {
  for (int64_t i = 0; i < a.out.numel(); ++i) {
    float gate = get(a.gate, i);
    put(a.out, i, gate * sigmoid(gate) * get(a.up, i));
  }
}

}  // namespace

KernelRow<SiluMulArgs> silu_mul_row() {
  return {"silu_mul_any_ref", DeviceType::kCpu, "plain loops, any float types", supports, nullptr, launch};
}

}  // namespace tessera::reference
