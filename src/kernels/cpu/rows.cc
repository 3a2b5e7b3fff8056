// Puts the vector rows of the best permitted instruction set into each op's table.
#include "kernels/cpu/simd.h"

#include "core/error.h"

namespace tessera {

namespace cpu {

void add_target(Kernels& kernels, int64_t target) {
  add_embed(kernels, target);
  add_rms_norm(kernels, target);
  add_elementwise(kernels, target);
  add_linear(kernels, target);
  add_rope(kernels, target);
  add_kv_write(kernels, target);
  add_attention(kernels, target);
  add_router(kernels, target);
  add_moe(kernels, target);
}

}  // namespace cpu

void add_cpu_kernels(Kernels& kernels, CpuIsa isa) {
  const int64_t here = hwy::SupportedTargets();
  if (isa == CpuIsa::kAvx512 && !(here & HWY_AVX3)) {
    fail(ErrorCode::kUnsupported, "TESSERA_ISA=avx512: this CPU lacks AVX-512 (F, BW, CD, DQ, VL); use auto");
  }
  if (isa == CpuIsa::kAvx2 && !(here & HWY_AVX2)) {
    fail(ErrorCode::kUnsupported, "TESSERA_ISA=avx2: this CPU lacks AVX2, FMA or F16C; use auto");
  }
  if (isa != CpuIsa::kAvx2 && here & HWY_AVX3) return cpu::add_target(kernels, HWY_AVX3);
  if (here & HWY_STATIC_TARGET) cpu::add_target(kernels, HWY_STATIC_TARGET);
}

}  // namespace tessera
