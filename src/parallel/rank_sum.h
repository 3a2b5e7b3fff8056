// The sum of a few ranks' vectors, taken in rank order in F32 and rounded once: what every communicator computes.
#pragma once

#include <cstdint>
#include <span>

#include "core/dtype.h"

namespace tessera {

// out[i] = sum over r of in[r][i], i in [begin, end), written to every out. Memory of out may be that of in. dtype is
// kF32 or kBF16.
void rank_sum(DType dtype, std::span<void* const> in, std::span<void* const> out, int64_t begin, int64_t end);

}  // namespace tessera
