// Pieces of equal length at equal distances: the part of a checkpoint's tensor that a rank holds. A view; const.
#pragma once

#include <cstdint>

#include "core/tensor.h"
#include "parallel/sharding.h"

namespace tessera {

struct Strided {
  const char* base = nullptr;
  int64_t run = 0;  // bytes of a piece
  int64_t count = 0;
  int64_t stride = 0;

  int64_t bytes() const { return run * count; }
  bool contiguous() const { return count <= 1 || run == stride || run == 0; }
  // Byte `offset` of the pieces put one after another.
  const char* at(int64_t offset) const { return base + offset / run * stride + offset % run; }
  // Bytes [offset, offset + bytes) of them.
  void copy(int64_t offset, int64_t bytes, char* to) const;
};

// The slice of a tensor that lies as [E, N, row_bytes], columns counted of K.
Strided strided_part(const Tensor& source, int64_t experts, int64_t n, int64_t k, const RowSlice& slice);

}  // namespace tessera
