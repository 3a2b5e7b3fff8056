#include "kernels/table.h"

#include "core/env.h"
#include "core/error.h"

namespace tessera {

CpuIsa cpu_isa_from_env() {
  std::string isa = env_string(Env::kIsa);
  if (isa == "auto") return CpuIsa::kAuto;
  if (isa == "reference") return CpuIsa::kReference;
  if (isa == "avx2") return CpuIsa::kAvx2;
  if (isa == "avx512") return CpuIsa::kAvx512;
  fail(ErrorCode::kInvalidArgument, "TESSERA_ISA={}: expected auto, reference, avx2 or avx512", isa);
}

Kernels Kernels::reference() {
  Kernels kernels;
  add_reference_kernels(kernels);
  add_fused_reference_kernels(kernels);
  return kernels;
}

Kernels Kernels::builtin(CpuIsa isa) {
  Kernels kernels;
  add_cuda_kernels(kernels);
  if (isa != CpuIsa::kReference) add_cpu_kernels(kernels, isa);
  add_reference_kernels(kernels);
  return kernels;
}

const char* capability_refusal(int least, int most) {
  if (least == 90 && most == 90) return "it is made for compute capability 9.0 alone (Hopper)";
  if (least >= 80) return "it needs compute capability 8.0";
  return "it needs compute capability 7.5";
}

Kernels Kernels::for_capability(int capability) const {
  Kernels kernels = *this;
  kernels.for_each([&](auto& table) { table.capability = capability; });
  return kernels;
}

Kernels Kernels::batch_invariant() const {
  Kernels kernels = *this;
  kernels.for_each([](auto& table) { std::erase_if(table.rows, [](const auto& row) { return row.varies; }); });
  return kernels;
}

}  // namespace tessera
