#include "loading/strided.h"

#include <algorithm>
#include <cstring>

namespace tessera {

void Strided::copy(int64_t offset, int64_t bytes, char* to) const {
  while (bytes > 0) {
    const int64_t part = std::min(bytes, run - offset % run);
    std::memcpy(to, at(offset), static_cast<size_t>(part));
    offset += part, to += part, bytes -= part;
  }
}

Strided strided_part(const Tensor& source, int64_t experts, int64_t n, int64_t k, const RowSlice& s) {
  TS_CHECK(s.more_rows.count == 0);
  const int64_t row = source.bytes() / (experts * n);
  const char* base = source.as<char>() + (s.experts.begin * n + s.rows.begin) * row;
  if (s.columns.count == k) {
    const int64_t run = s.rows.count * row, stride = n * row;
    if (run == stride) return {base, run * s.experts.count, 1, run * s.experts.count};
    return {base, run, s.experts.count, stride};
  }
  TS_CHECK(s.rows.count == n || s.experts.count == 1);
  return {base + row * s.columns.begin / k, row * s.columns.count / k, s.experts.count * s.rows.count, row};
}

}  // namespace tessera
