// Bytes of a weight in the form it has in memory, made from mapped pieces of files on demand: any range, in any order.
// What loading copies into an arena, sends to a GPU piece by piece, or writes into a cache all comes from here.
// Thread-safe: no state but views of the files, which must outlive it.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "loading/strided.h"

namespace tessera {

struct RowForm {
  int64_t bytes = 0;
  int64_t unit = 1;  // ranges of whole units cost least; offsets and lengths are multiples of the element size anyway
  std::function<void(int64_t offset, int64_t bytes, char* to)> read;
};

// Pieces one after another, as they are.
RowForm copied_form(const Strided& part);

// Values of `from`, rounded to `via`, held as `to`.
struct CastPart {
  Strided part;
  DType from = DType::kF32;
};
RowForm cast_form(const Strided& part, DType from, DType via, DType to);
// Parts stacked, each rounded to `to`.
RowForm stacked_form(std::vector<CastPart> parts, DType to);

// Of each expert's [k, n] in `source`, which holds all experts, the slice as [n, k].
RowForm transposed_form(const Tensor& source, const RowSlice& slice, DType to);

// MXFP4 rows of k values as BF16.
RowForm dequantized_form(const Strided& blocks, const Strided& scales, int64_t k);

}  // namespace tessera
