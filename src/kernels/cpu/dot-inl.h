// Dot products of weight rows with tokens, the engine under linear and moe. Re-included for each Highway target.
//
// One order of summation. A sum has one vector accumulator; chunks of 32 weights enter in order of k, the vectors of a
// chunk in a fixed order, and sum_4 folds the lanes. Whether rows are expanded in registers (few tokens) or once into a
// buffer that many tokens share, and however rows and tokens are tiled or split over threads, each sum sees the same
// operations, so a token's result does not depend on its company.
#if defined(TESSERA_CPU_DOT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TESSERA_CPU_DOT_INL_H_
#undef TESSERA_CPU_DOT_INL_H_
#else
#define TESSERA_CPU_DOT_INL_H_
#endif

#include "kernels/cpu/mxfp4_table.h"
#include "kernels/cpu/values-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tessera::cpu::HWY_NAMESPACE {

constexpr int64_t kChunk = 32;  // weights that are loaded together; one MXFP4 block
constexpr int64_t kChunkVectors = kChunk / kLanes;
constexpr int64_t kHalfVectors = kChunkVectors / 2;
constexpr int64_t kTileRows = 4;
constexpr int64_t kTileTokens = HWY_TARGET == HWY_AVX3 ? 6 : 3;  // rows x tokens + rows + 1 registers
constexpr int64_t kFusedTile = HWY_TARGET == HWY_AVX3 ? 5 : 3;   // the same where rows are expanded in registers
constexpr int64_t kBlockRows = 64;                               // most rows of one call
constexpr int64_t kBlockTokens = 96;                             // most tokens of one call
constexpr int64_t kSlabChunks = 32;   // most chunks expanded at a time: 64 rows x 1024 x 4 bytes, in the L2 cache
constexpr int64_t kFusedTokens = 20;  // up to here rows are expanded in registers, for each token tile anew

inline int64_t padded(int64_t k) {
  return (k + kChunk - 1) / kChunk * kChunk;
}

// Each weight format is a class with: reads(weight), whether that is its format; Row, a place in a row; row(i), the
// start of row i; load(row, out), 32 weights as kChunkVectors vectors; load_tail(row, count, out), the same for a last
// part; advance(row), to the next 32; kChunkBytes and bytes(row), the memory they fill; prefetch(rows, next) and
// prefetch_scales(row), ahead of a tile's rows. With kPaired, a chunk's even elements come first, then its odd ones,
// and the tokens are prepared in that order.

template <class T>
struct PlainWeights {
  static constexpr bool kPaired = std::is_same_v<T, hwy::bfloat16_t>;
  static constexpr int64_t kChunkBytes = kChunk * sizeof(T);
  using Row = const T*;
  const T* values;
  int64_t k;

  static bool reads(const Weight& w) {
    constexpr DType kType = sizeof(T) == 4 ? DType::kF32 : kPaired ? DType::kBF16 : DType::kF16;
    return w.format == WeightFormat::kPlain && w.values.dtype == kType;
  }
  explicit PlainWeights(const Weight& w) : values(w.values.as<T>()), k(w.k) {}
  Row row(int64_t i) const { return values + i * k; }

  static HWY_INLINE void load_values(const T* p, V* out) {
    const F32 d;
    if constexpr (kPaired) {
      const hn::RebindToUnsigned<F32> du;
      HWY_UNROLL(8)
      for (int64_t j = 0; j < kHalfVectors; ++j) {
        const auto pairs = hn::LoadU(du, reinterpret_cast<const uint32_t*>(p) + j * kLanes);
        out[j] = hn::BitCast(d, hn::ShiftLeft<16>(pairs));
        out[kHalfVectors + j] = hn::BitCast(d, hn::And(pairs, hn::Set(du, 0xffff0000u)));
      }
    } else {
      HWY_UNROLL(8)
      for (int64_t j = 0; j < kChunkVectors; ++j) out[j] = tessera::cpu::HWY_NAMESPACE::load(p + j * kLanes, kLanes);
    }
  }
  static HWY_INLINE void load(Row row, V* out) { load_values(row, out); }
  static HWY_INLINE void load_tail(Row row, int64_t count, V* out) {
    HWY_ALIGN T part[kChunk] = {};
    std::memcpy(part, row, static_cast<size_t>(count) * sizeof(T));
    load_values(part, out);
  }
  static HWY_INLINE void advance(Row& row) { row += kChunk; }
  static HWY_INLINE const char* bytes(Row row) { return reinterpret_cast<const char*>(row); }
  // The same place of the next kTileRows rows. Long rows are streams that the hardware follows too.
  HWY_INLINE void prefetch(const Row* rows, const char*) const {
    HWY_UNROLL(8)
    for (int r = 0; r < kTileRows; ++r) __builtin_prefetch(bytes(rows[r] + kTileRows * k));
  }
  HWY_INLINE void prefetch_scales(Row) const {}
};

struct Mxfp4Weights {
  static constexpr bool kPaired = true;
  static constexpr int64_t kChunkBytes = kChunk / 2;
  struct Row {
    const uint8_t* values;
    const uint8_t* scales;
  };
  const uint8_t* values;
  const uint8_t* scales;
  int64_t k;

  static bool reads(const Weight& w) { return w.format == WeightFormat::kMxfp4; }
  explicit Mxfp4Weights(const Weight& w) : values(w.values.as<uint8_t>()), scales(w.scales.as<uint8_t>()), k(w.k) {}
  Row row(int64_t i) const { return {values + i * (k / 2), scales + i * (k / kChunk)}; }

  static HWY_INLINE void load(Row row, V* out) {
    const F32 d;
    const uint8_t* bytes = row.values;
    const uint8_t scale = *row.scales;
#if HWY_TARGET == HWY_AVX3
    // The permute reads the low four bits of each lane only, so neither nibble needs a mask.
    const hn::RebindToUnsigned<F32> du;
    const __m512 table = _mm512_load_ps(kMxfp4Table.values[scale]);
    const auto pairs = hn::PromoteTo(du, hn::LoadU(hn::Rebind<uint8_t, F32>(), bytes));
    out[0] = V{_mm512_permutexvar_ps(pairs.raw, table)};
    out[1] = V{_mm512_permutexvar_ps(hn::ShiftRight<4>(pairs).raw, table)};
#else
    const hn::CappedTag<uint8_t, 16> d8;
    const hn::RebindToSigned<decltype(d8)> di8;
    const hn::Repartition<uint16_t, decltype(d8)> d16;
    alignas(16) static constexpr int8_t kDoubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    const auto table = hn::Load(di8, kDoubled);
    const auto low_bits = hn::Set(d8, 15);
    const auto pairs = hn::LoadU(d8, bytes);
    const auto even = hn::And(pairs, low_bits);
    const auto odd = hn::And(hn::BitCast(d8, hn::ShiftRight<4>(hn::BitCast(d16, pairs))), low_bits);
    alignas(16) int8_t whole[kChunk];
    hn::Store(hn::TableLookupBytes(table, hn::BitCast(di8, even)), di8, whole);
    hn::Store(hn::TableLookupBytes(table, hn::BitCast(di8, odd)), di8, whole + 16);
    const V half_scale = hn::Set(d, kHalfScales.values[scale]);
    const hn::RebindToSigned<F32> di;
    const hn::Rebind<int8_t, F32> part;
    HWY_UNROLL(8)
    for (int64_t j = 0; j < kChunkVectors; ++j) {
      const auto lanes = hn::ConvertTo(d, hn::PromoteTo(di, hn::LoadU(part, whole + j * kLanes)));
      out[j] = hn::Mul(lanes, half_scale);
    }
#endif
  }
  // Rows are whole blocks.
  static HWY_INLINE void load_tail(Row, int64_t, V*) {}
  static HWY_INLINE void advance(Row& row) {
    row.values += kChunk / 2, ++row.scales;
  }
  static HWY_INLINE const char* bytes(Row row) {
    return reinterpret_cast<const char*>(row.values);
  }
  // The next rows in the order of memory, a line for each line that kTileRows chunks fill, and a page further into the
  // L2 cache. Prefetching each row in its own place measured 15 % slower, none at all 40 %.
  HWY_INLINE void prefetch(const Row*, const char* next) const {
    static_assert(kTileRows * kChunkBytes == 64);
    __builtin_prefetch(next);
    __builtin_prefetch(next + 4096, 0, 2);
  }
  HWY_INLINE void prefetch_scales(Row row) const {
    const int64_t size = kTileRows * k / kChunk;
    for (int64_t i = 0; i < size; i += 64) __builtin_prefetch(row.scales + size + i);
  }
};

// Calls f with the class that reads this weight.
template <class F>
HWY_INLINE void with_weights(const Weight& w, F&& f) {
  if (Mxfp4Weights::reads(w)) return f(Mxfp4Weights(w));
  if (w.values.dtype == DType::kBF16) return f(PlainWeights<hwy::bfloat16_t>(w));
  if (w.values.dtype == DType::kF16) return f(PlainWeights<hwy::float16_t>(w));
  f(PlainWeights<float>(w));
}
inline bool paired(const Weight& w) {
  return w.format == WeightFormat::kMxfp4 || w.values.dtype == DType::kBF16;
}

// The place of element i of a token whose chunks are in paired order.
inline int64_t paired_index(int64_t i) {
  return i / kChunk * kChunk + i % 2 * (kChunk / 2) + i % kChunk / 2;
}

// Elements [i, i + k) of x as F32, padded with zeros to whole chunks, in the order of the weights.
HWY_INLINE void prepare_token(const Tensor& x, int64_t i, int64_t k, bool pairs, float* out) {
  const F32 d;
  for (int64_t begin = 0; begin < k; begin += kChunk) {
    V in[kChunkVectors];
    HWY_UNROLL(8)
    for (int64_t j = 0; j < kChunkVectors; ++j) {
      int64_t left = k - begin - j * kLanes;
      in[j] = left > 0 ? load(x, i + begin + j * kLanes, left) : hn::Zero(d);
    }
    if (pairs) {
      HWY_UNROLL(8)
      for (int64_t j = 0; j < kHalfVectors; ++j) {
        hn::StoreU(hn::ConcatEven(d, in[2 * j + 1], in[2 * j]), d, out + begin + j * kLanes);
        hn::StoreU(hn::ConcatOdd(d, in[2 * j + 1], in[2 * j]), d, out + begin + kChunk / 2 + j * kLanes);
      }
    } else {
      HWY_UNROLL(8)
      for (int64_t j = 0; j < kChunkVectors; ++j) hn::StoreU(in[j], d, out + begin + j * kLanes);
    }
  }
}

// Per-task scratch, on the stack of the thread: about 0.7 MB.
struct DotScratch {
  alignas(64) float weights[kBlockRows * kSlabChunks * kChunk];
  alignas(64) float partial[kBlockRows * kBlockTokens * kLanes];
  alignas(64) float sums[kBlockTokens * kBlockRows];
};

// Makes the compiler keep p as a pointer of its own that it increments. Otherwise it prefers one index and eight bases,
// which do not fit its registers.
template <class T>
HWY_INLINE void keep(T*& p) {
  __asm__("" : "+r"(p));
}
template <class T>
HWY_INLINE void keep_row(const T*& row) {
  keep(row);
}
HWY_INLINE void keep_row(Mxfp4Weights::Row& row) {
  keep(row.values), keep(row.scales);
}

// kTileRows rows with M tokens, expanding the rows in registers; sums[m * kBlockRows + r]. Meanwhile the next rows are
// prefetched; `next` runs over their bytes.
template <int M, class W>
HWY_NOINLINE void dot_fused(const W& w, const typename W::Row* first, const float* const* tokens, float* sums) {
  const F32 d;
  V acc[kTileRows][M];
  typename W::Row rows[kTileRows];
  HWY_UNROLL(8)
  for (int r = 0; r < kTileRows; ++r) {
    rows[r] = first[r];
    HWY_UNROLL(8)
    for (int m = 0; m < M; ++m) acc[r][m] = hn::Zero(d);
  }
  const float* x[M];
  HWY_UNROLL(8)
  for (int m = 0; m < M; ++m) x[m] = tokens[m];
  const auto step = [&](int r, int64_t offset, const V* weights) HWY_ATTR {
    HWY_UNROLL(8)
    for (int64_t j = 0; j < kChunkVectors; ++j) {
      HWY_UNROLL(8)
      for (int m = 0; m < M; ++m)
        acc[r][m] = hn::MulAdd(weights[j], hn::LoadU(d, x[m] + offset + j * kLanes), acc[r][m]);
    }
  };
  const int64_t whole = w.k / kChunk * kChunk, tail = w.k - whole;
  const char* next = W::bytes(rows[0]) + kTileRows * whole / kChunk * W::kChunkBytes;
  w.prefetch_scales(rows[0]);
  for (int64_t offset = 0; offset < whole; offset += kChunk) {
    w.prefetch(rows, next);
    next += kTileRows * W::kChunkBytes;
    HWY_UNROLL(8)
    for (int r = 0; r < kTileRows; ++r) {
      V weights[kChunkVectors];
      W::load(rows[r], weights);
      W::advance(rows[r]);
      if constexpr (M <= 2) keep_row(rows[r]);
      step(r, offset, weights);
    }
  }
  if (tail > 0) {
    HWY_UNROLL(8)
    for (int r = 0; r < kTileRows; ++r) {
      V weights[kChunkVectors];
      W::load_tail(rows[r], tail, weights);
      step(r, whole, weights);
    }
  }
  HWY_UNROLL(8)
  for (int m = 0; m < M; ++m) {
    hn::StoreU(sum_4(acc[0][m], acc[1][m], acc[2][m], acc[3][m]), hn::CappedTag<float, 4>(), sums + m * kBlockRows);
  }
}

constexpr int64_t kAhead = 256;  // floats; the expanded rows are read from the L2 cache as one stream

// Four expanded rows (vectors of the four rows alternate) with M tokens over `steps` vectors, on top of `partial`.
template <int M>
HWY_NOINLINE void dot_tile(const float* HWY_RESTRICT weights, const float* const* tokens, int64_t offset, int64_t steps,
                           float* HWY_RESTRICT partial) {
  const F32 d;
  V acc[kTileRows][M];
  const float* x[M];
  HWY_UNROLL(8)
  for (int m = 0; m < M; ++m) {
    x[m] = tokens[m] + offset;
    HWY_UNROLL(8)
    for (int r = 0; r < kTileRows; ++r) acc[r][m] = hn::Load(d, partial + (m * kTileRows + r) * kLanes);
  }
  for (int64_t s = 0; s < steps; ++s) {
    V row[kTileRows];
    HWY_UNROLL(8)
    for (int r = 0; r < kTileRows; ++r) {
      row[r] = hn::Load(d, weights + (s * kTileRows + r) * kLanes);
      __builtin_prefetch(weights + (s * kTileRows + r) * kLanes + kAhead);
    }
    HWY_UNROLL(8)
    for (int m = 0; m < M; ++m) {
      const V value = hn::LoadU(d, x[m] + s * kLanes);
      HWY_UNROLL(8)
      for (int r = 0; r < kTileRows; ++r) acc[r][m] = hn::MulAdd(row[r], value, acc[r][m]);
    }
  }
  HWY_UNROLL(8)
  for (int m = 0; m < M; ++m) {
    HWY_UNROLL(8)
    for (int r = 0; r < kTileRows; ++r) hn::Store(acc[r][m], d, partial + (m * kTileRows + r) * kLanes);
  }
}

// dot_tile for a number of tokens known at run time.
HWY_INLINE void dot_tile_any(int64_t tokens_left, const float* weights, const float* const* tokens, int64_t offset,
                             int64_t steps, float* partial) {
  switch (tokens_left) {
    case 1:
      return dot_tile<1>(weights, tokens, offset, steps, partial);
    case 2:
      return dot_tile<2>(weights, tokens, offset, steps, partial);
    case 3:
      return dot_tile<3>(weights, tokens, offset, steps, partial);
#if HWY_TARGET == HWY_AVX3
    case 4:
      return dot_tile<4>(weights, tokens, offset, steps, partial);
    case 5:
      return dot_tile<5>(weights, tokens, offset, steps, partial);
    default:
      return dot_tile<6>(weights, tokens, offset, steps, partial);
#endif
  }
}

// Expands chunks [begin, end) of the rows, in the order dot_tile reads, and moves the rows on to chunk `end`.
template <class W>
HWY_INLINE void expand(const W& w, typename W::Row* rows, int64_t row_count, int64_t begin, int64_t end, float* out) {
  const F32 d;
  const int64_t group = (end - begin) * kChunk * kTileRows;
  for (int64_t r = 0; r < row_count; ++r) {
    float* to = out + r / kTileRows * group + r % kTileRows * kLanes;
    typename W::Row row = rows[r];
    for (int64_t chunk = begin; chunk < end; ++chunk, W::advance(row)) {
      V weights[kChunkVectors];
      const int64_t count = w.k - chunk * kChunk;
      if (count >= kChunk) {
        W::load(row, weights);
      } else {
        W::load_tail(row, count, weights);
      }
      HWY_UNROLL(8)
      for (int64_t j = 0; j < kChunkVectors; ++j, to += kTileRows * kLanes) hn::Store(weights[j], d, to);
    }
    rows[r] = row;
  }
}

// The buffered path of dot_block.
template <class W>
HWY_NOINLINE void dot_buffered(const W& w, const typename W::Row* first, int64_t row_count, const float* const* tokens,
                               int64_t token_count, DotScratch& scratch) {
  const F32 d;
  const int64_t chunks = padded(w.k) / kChunk, groups = row_count / kTileRows;
  const int64_t slabs = (chunks + kSlabChunks - 1) / kSlabChunks, slab = (chunks + slabs - 1) / slabs;
  const auto partial = [&](int64_t token, int64_t group) HWY_ATTR {
    return scratch.partial + (token * groups + group * std::min(kTileTokens, token_count - token)) * kTileRows * kLanes;
  };
  typename W::Row rows[kBlockRows];
  std::copy_n(first, row_count, rows);
  for (int64_t i = 0; i < token_count * row_count; ++i) hn::Store(hn::Zero(d), d, scratch.partial + i * kLanes);
  for (int64_t begin = 0; begin < chunks; begin += slab) {
    const int64_t end = std::min(begin + slab, chunks), steps = (end - begin) * kChunkVectors;
    expand(w, rows, row_count, begin, end, scratch.weights);
    for (int64_t t = 0; t < token_count; t += kTileTokens) {
      for (int64_t g = 0; g < groups; ++g) {
        dot_tile_any(std::min(kTileTokens, token_count - t), scratch.weights + g * steps * kTileRows * kLanes,
                     tokens + t, begin * kChunk, steps, partial(t, g));
      }
    }
  }
  for (int64_t t = 0; t < token_count; t += kTileTokens) {
    for (int64_t g = 0; g < groups; ++g) {
      const float* p = partial(t, g);
      for (int64_t m = t; m < std::min(t + kTileTokens, token_count); ++m, p += kTileRows * kLanes) {
        hn::StoreU(
            sum_4(hn::Load(d, p), hn::Load(d, p + kLanes), hn::Load(d, p + 2 * kLanes), hn::Load(d, p + 3 * kLanes)),
            hn::CappedTag<float, 4>(), scratch.sums + m * kBlockRows + g * kTileRows);
      }
    }
  }
}

// dot_fused for a number of tokens known at run time.
template <class W>
HWY_INLINE void dot_fused_any(const W& w, const typename W::Row* rows, int64_t count, const float* const* tokens,
                              float* sums) {
  switch (count) {
    case 1:
      return dot_fused<1>(w, rows, tokens, sums);
    case 2:
      return dot_fused<2>(w, rows, tokens, sums);
    case 3:
      return dot_fused<3>(w, rows, tokens, sums);
#if HWY_TARGET == HWY_AVX3
    case 4:
      return dot_fused<4>(w, rows, tokens, sums);
    default:
      return dot_fused<5>(w, rows, tokens, sums);
#endif
  }
}

// sums[t * kBlockRows + r] = row r . token t, for at most kBlockRows rows and kBlockTokens tokens. `rows` has room up
// to a multiple of kTileRows, which is filled up; the spare sums are unspecified.
template <class W>
HWY_INLINE void dot_block(const W& w, typename W::Row* rows, int64_t row_count, const float* const* tokens,
                          int64_t token_count, DotScratch& scratch) {
  while (row_count % kTileRows != 0) rows[row_count] = rows[row_count - 1], ++row_count;
  if (token_count > kFusedTokens) return dot_buffered(w, rows, row_count, tokens, token_count, scratch);
  // Tiles of nearly equal size: a tile of one token costs almost half of one of five.
  const int64_t tiles = (token_count + kFusedTile - 1) / kFusedTile;
  for (int64_t r = 0; r < row_count; r += kTileRows) {
    for (int64_t i = 0, t = 0; i < tiles; ++i) {
      const int64_t count = (token_count - t + tiles - i - 1) / (tiles - i);
      dot_fused_any(w, rows + r, count, tokens + t, scratch.sums + t * kBlockRows + r);
      t += count;
    }
  }
}

}  // namespace tessera::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
