// Copies of weights in another type or order: what loading does where a checkpoint's bytes cannot be used in place.
// Sources may be misaligned (safetensors aligns to nothing); destinations are aligned. Types: F32, BF16, F16.
// Thread-safe: no state.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace tessera {

// True when converting could change a value: F32 to 16 bits, or one 16-bit format to the other.
bool changes_values(DType from, DType to);

// dst[i] = src[i], rounded to nearest even.
void cast_values(const void* src, DType from, void* dst, DType to, int64_t count);

// Columns [begin, end) of src [k, n] become rows [begin, end) of dst [n, k].
struct TransposeArgs {
  const void* src;
  DType from;
  void* dst;
  DType to;
  int64_t n;
  int64_t k;
  int64_t stride = 0;  // columns of a source row when src is a part of a wider one; 0: n
};
void transpose_columns(const TransposeArgs& args, int64_t begin, int64_t end);

}  // namespace tessera
