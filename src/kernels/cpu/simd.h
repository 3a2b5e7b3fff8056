// Included first by every vector kernel: limits Highway to the targets we ship and declares the functions that register
// each op's rows. On x86-64 these are AVX2 and AVX-512; AVX2 is called the baseline so that Highway adds no scalar
// target (its 128-bit emulation is unusable before GCC 12.3), but each target is still compiled with its own attributes
// and chosen at run time, and a CPU without AVX2 gets the reference rows. On Arm it is NEON: kernels here keep arrays
// of vectors.
#pragma once

#if defined(__x86_64__)
#define HWY_BASELINE_TARGETS HWY_AVX2
#endif
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)

#include <hwy/targets.h>

#include "kernels/table.h"

// The function that HWY_EXPORT(name) compiled for one target: rows are chosen when the table is built, so that several
// instruction sets can stand in one program and a row's name tells which one runs.
#define TS_FOR_TARGET(name, target) (*HWY_DISPATCH_TABLE(name)[::tessera::cpu::dispatch_index(target)])

namespace tessera::cpu {

HWY_INLINE size_t dispatch_index(int64_t target) {
  hwy::ChosenTarget chosen;
  chosen.Update(target);
  return chosen.GetIndex();
}

// Appends the rows that were compiled for one Highway target (a single HWY_* bit).
void add_embed(Kernels& kernels, int64_t target);
void add_rms_norm(Kernels& kernels, int64_t target);
void add_elementwise(Kernels& kernels, int64_t target);
void add_linear(Kernels& kernels, int64_t target);
void add_rope(Kernels& kernels, int64_t target);
void add_kv_write(Kernels& kernels, int64_t target);
void add_attention(Kernels& kernels, int64_t target);
void add_router(Kernels& kernels, int64_t target);
void add_moe(Kernels& kernels, int64_t target);

// Every op's rows for one target; the machine must have it.
void add_target(Kernels& kernels, int64_t target);

}  // namespace tessera::cpu
