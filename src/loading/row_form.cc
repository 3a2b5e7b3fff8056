#include "loading/row_form.h"

#include <algorithm>
#include <cstring>

#include "loading/cast.h"
#include "quant/mxfp4.h"

namespace tessera {

namespace {

void cast_piece(const char* in, DType from, DType via, char* out, DType to, int64_t count) {
  if (via == to || via == from) return cast_values(in, from, out, to, count);
  std::vector<uint16_t> rounded(static_cast<size_t>(count));
  cast_values(in, from, rounded.data(), via, count);
  cast_values(rounded.data(), via, out, to, count);
}

// Values [at, at + count) of the pieces.
void cast_range(const Strided& source, DType from, DType via, char* out, DType to, int64_t at, int64_t count) {
  const int64_t size = dtype_size(from), run = source.run / size;
  for (const int64_t end = at + count; at < end;) {
    const int64_t part = std::min(end - at, run - at % run);
    cast_piece(source.at(at * size), from, via, out, to, part);
    at += part;
    out += part * dtype_size(to);
  }
}

// Rows made whole by make(first, count, to), of which only `bytes` from `offset` on are wanted.
template <class Make>
void whole_rows(int64_t row_bytes, int64_t offset, int64_t bytes, char* to, Make&& make) {
  std::vector<char> row;
  while (bytes > 0) {
    const int64_t first = offset / row_bytes, skip = offset % row_bytes;
    int64_t done = 0;
    if (skip == 0 && bytes >= row_bytes) {
      make(first, bytes / row_bytes, to);
      done = bytes / row_bytes * row_bytes;
    } else {
      row.resize(static_cast<size_t>(row_bytes));
      make(first, 1, row.data());
      done = std::min(bytes, row_bytes - skip);
      std::memcpy(to, row.data() + skip, static_cast<size_t>(done));
    }
    offset += done, to += done, bytes -= done;
  }
}

}  // namespace

RowForm copied_form(const Strided& part) {
  return {.bytes = part.bytes(),
          .read = [part](int64_t offset, int64_t bytes, char* to) { part.copy(offset, bytes, to); }};
}

RowForm cast_form(const Strided& part, DType from, DType via, DType to) {
  const int64_t size = dtype_size(to);
  return {.bytes = part.bytes() / dtype_size(from) * size,
          .unit = size,
          .read = [=](int64_t offset, int64_t bytes, char* out) {
            cast_range(part, from, via, out, to, offset / size, bytes / size);
          }};
}

RowForm stacked_form(std::vector<CastPart> parts, DType to) {
  const int64_t size = dtype_size(to);
  std::vector<int64_t> starts = {0};  // in values
  for (const CastPart& p : parts) starts.push_back(starts.back() + p.part.bytes() / dtype_size(p.from));
  const int64_t total = starts.back();
  return {.bytes = total * size,
          .unit = size,
          .read = [=, parts = std::move(parts), starts = std::move(starts)](int64_t offset, int64_t bytes, char* out) {
            int64_t at = offset / size;
            const int64_t end = at + bytes / size;
            auto i = static_cast<size_t>(std::upper_bound(starts.begin(), starts.end(), at) - starts.begin()) - 1;
            for (; at < end; ++i) {
              const int64_t count = std::min(end, starts[i + 1]) - at;
              cast_range(parts[i].part, parts[i].from, to, out, to, at - starts[i], count);
              at += count;
              out += count * size;
            }
          }};
}

RowForm transposed_form(const Tensor& source, const RowSlice& slice, DType to) {
  const int64_t all_k = source.dim(1), all_n = source.dim(2), n = slice.rows.count, k = slice.columns.count;
  const int64_t row_bytes = k * dtype_size(to), size = dtype_size(source.dtype);
  const char* first =
      source.as<char>() + ((slice.experts.begin * all_k + slice.columns.begin) * all_n + slice.rows.begin) * size;
  auto make = [=, from = source.dtype](int64_t row, int64_t count, char* out) {
    while (count > 0) {  // the rows of one expert at a time
      const int64_t begin = row % n, part = std::min(count, n - begin);
      transpose_columns({.src = first + (row / n * all_k * all_n + begin) * size,
                         .from = from,
                         .dst = out,
                         .to = to,
                         .n = part,
                         .k = k,
                         .stride = all_n},
                        0, part);
      row += part, count -= part, out += part * row_bytes;
    }
  };
  return {.bytes = slice.experts.count * n * row_bytes,
          .unit = std::max<int64_t>(row_bytes, 1),
          .read = [=](int64_t offset, int64_t bytes, char* out) { whole_rows(row_bytes, offset, bytes, out, make); }};
}

RowForm dequantized_form(const Strided& blocks, const Strided& scales, int64_t k) {
  constexpr int64_t kBlock = kMxfp4Block * 2;  // bytes of BF16
  auto make = [=](int64_t block, int64_t count, char* out) {
    while (count > 0) {  // blocks that follow one another in the file too
      const int64_t part = std::min(count, scales.run - block % scales.run);
      mxfp4_dequantize_row(reinterpret_cast<const uint8_t*>(blocks.at(block * kMxfp4BlockBytes)),
                           reinterpret_cast<const uint8_t*>(scales.at(block)), part * kMxfp4Block,
                           reinterpret_cast<uint16_t*>(out));
      block += part, count -= part, out += part * kBlock;
    }
  };
  return {.bytes = scales.bytes() * kBlock,
          .unit = std::max<int64_t>(k * 2, 1),
          .read = [=](int64_t offset, int64_t bytes, char* out) { whole_rows(kBlock, offset, bytes, out, make); }};
}

}  // namespace tessera
