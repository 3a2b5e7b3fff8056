// Copies of a few words in stream order, between device and pinned host memory either way, by a kernel: between two
// grids that takes less time than the copy engine's (a step has four of them). Thread-safe.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace tessera {

constexpr int64_t kMostCopiedWords = 2048;  // a step of one sequence has a few hundred

// `to` and `from` are 4-byte aligned addresses that the device can use; at most kMostCopiedWords. With `overlap`
// (Hopper) the kernel may start, not read, before the one before it has ended.
cudaError_t copy_words(void* to, const void* from, int64_t words, bool overlap, cudaStream_t stream);

}  // namespace tessera
