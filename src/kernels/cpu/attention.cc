// Causal attention over the paged cache. A task is one kv head with a tile of query rows (tokens x the query heads that
// share the kv head), so that each key and value is loaded and widened once for all of them.
//
// Order of summation, whatever the tile: keys go in blocks of 64 counted from position 0, with an online softmax inside
// a split of 1024 keys that starts afresh; splits are then merged in order, on top of the sink. Long contexts with few
// rows compute the splits in parallel, which changes nothing in the result.
#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention.cc"
#include <hwy/foreach_target.h>

#include "kernels/cpu/values-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tessera::cpu::HWY_NAMESPACE {
namespace {

constexpr int64_t kKeys = 64;     // keys of a block
constexpr int64_t kSplit = 1024;  // keys of a split
constexpr int64_t kRows = 64;     // query rows of a tile
constexpr int64_t kMaxHeadDim = 256;
constexpr int64_t kGroup = 4;                               // rows of a register tile
constexpr int64_t kStrip = HWY_TARGET == HWY_AVX3 ? 4 : 2;  // vectors of a register tile
constexpr int64_t kFewTasks = 64;                           // below this, splits become tasks of their own
constexpr float kNone = -std::numeric_limits<float>::infinity();

constexpr int64_t round_up(int64_t n, int64_t to) {
  return (n + to - 1) / to * to;
}

// About 0.4 MB, on the stack of the thread; a head dimension of 64 touches a quarter of it.
struct Scratch {
  alignas(64) float q[kRows * kMaxHeadDim];
  alignas(64) float keys[kMaxHeadDim * kKeys];    // [D][64]: transposed
  alignas(64) float values[kKeys * kMaxHeadDim];  // [64][D padded]
  alignas(64) float scores[kRows * kKeys];
  alignas(64) float out[kRows * kMaxHeadDim];    // of the current split
  alignas(64) float total[kRows * kMaxHeadDim];  // of the splits merged so far
  float split_max[kRows], split_sum[kRows], total_max[kRows], total_sum[kRows];
  int64_t first_key[kRows], last_key[kRows];  // what each row sees; inclusive
};

struct Shape4 {
  int64_t heads, kv_heads, d, padded, group, chunks, tile_tokens, tiles, splits;
  explicit Shape4(const AttentionArgs& a)
      : heads(a.q.dim(1)),
        kv_heads(a.cache.k.dim(1)),
        d(a.q.dim(2)),
        padded(round_up(d, kLanes)),
        group(heads / kv_heads) {
    chunks = (group + kRows - 1) / kRows;
    tile_tokens = std::max<int64_t>(1, kRows / group);
    tiles = (a.max_queries + tile_tokens - 1) / tile_tokens;
    splits = (a.max_context + kSplit - 1) / kSplit;
  }
  int64_t tile_tasks(const AttentionArgs& a) const { return a.context.dim(0) * kv_heads * chunks * tiles; }
  bool split_tasks(const AttentionArgs& a) const {
    int64_t span = a.window > 0 ? std::min(a.window, a.max_context) : a.max_context;
    return span > kSplit && tile_tasks(a) < kFewTasks;
  }
};

// The query rows of a task.
struct Tile {
  int64_t sequence, kv_head, head, head_count, token, token_count, position;  // position of the first token
  int64_t rows() const { return head_count * token_count; }
};

// False when the sequence has no such tile.
bool find_tile(const AttentionArgs& a, const Shape4& s, int64_t task, Tile& tile) {
  int64_t index = task % s.tiles, chunk = task / s.tiles % s.chunks;
  tile.kv_head = task / (s.tiles * s.chunks) % s.kv_heads;
  tile.sequence = task / (s.tiles * s.chunks * s.kv_heads);
  int64_t begin = a.query_start.i32()[tile.sequence], end = a.query_start.i32()[tile.sequence + 1];
  tile.token = begin + index * s.tile_tokens;
  if (tile.token >= end) return false;
  tile.token_count = std::min(s.tile_tokens, end - tile.token);
  tile.head = tile.kv_head * s.group + chunk * kRows;
  tile.head_count = std::min(kRows, s.group - chunk * kRows);
  tile.position = a.context.i32()[tile.sequence] - end + tile.token;
  return true;
}

int64_t first_visible(const AttentionArgs& a, int64_t position) {
  return a.window > 0 ? std::max<int64_t>(0, position - a.window + 1) : 0;
}

// Rows are numbered token by token. Spare rows up to a multiple of kGroup are zero and see nothing.
void load_queries(const AttentionArgs& a, const Shape4& s, const Tile& tile, Scratch& scratch) {
  const int64_t rows = tile.rows();
  for (int64_t r = 0; r < round_up(rows, kGroup); ++r) {
    if (r >= rows) {
      std::fill_n(scratch.q + r * s.padded, s.padded, 0.0f);
      scratch.first_key[r] = 0, scratch.last_key[r] = -1;
      continue;
    }
    const int64_t t = r / tile.head_count, h = r % tile.head_count;
    const int64_t from = ((tile.token + t) * s.heads + tile.head + h) * s.d;
    for (int64_t i = 0; i < s.d; i += kLanes)
      hn::Store(load(a.q, from + i, s.d - i), F32(), scratch.q + r * s.padded + i);
    scratch.last_key[r] = tile.position + t;
    scratch.first_key[r] = first_visible(a, tile.position + t);
  }
}

// What keys outside the wanted range read.
template <class T>
struct Zeros {
  alignas(64) static constexpr T kRow[kMaxHeadDim] = {};
};

// The rows of one block of keys in the cache, for one kv head.
template <class T>
struct KeyRows {
  const T* k[kKeys];
  const T* v[kKeys];

  // Keys [begin, end) of the block that starts at position `block`; the others are rows of zeros.
  KeyRows(const AttentionArgs& a, const Tile& tile, int64_t block, int64_t begin, int64_t end) {
    const int64_t page_size = a.cache.page_size(), heads = a.cache.k.dim(1), d = a.cache.k.dim(3);
    const int32_t* pages = a.page_table.i32() + tile.sequence * a.page_table.dim(1);
    std::fill_n(k, kKeys, Zeros<T>::kRow);
    std::fill_n(v, kKeys, Zeros<T>::kRow);
    begin = std::max(begin, block), end = std::min(end, block + kKeys);
    for (int64_t p = begin, page = begin / page_size, offset = begin % page_size; p < end; ++page, offset = 0) {
      const int64_t first = ((pages[page] * heads + tile.kv_head) * page_size + offset) * d;
      const int64_t count = std::min(page_size - offset, end - p);
      for (int64_t i = 0; i < count; ++i) {
        k[p - block + i] = a.cache.k.as<const T>() + first + i * d;
        v[p - block + i] = a.cache.v.as<const T>() + first + i * d;
      }
      p += count;
    }
  }
  void prefetch(int64_t d) const {
    for (int64_t i = 0; i < kKeys; ++i) {
      for (int64_t byte = 0; byte < d * static_cast<int64_t>(sizeof(T)); byte += 64) {
        __builtin_prefetch(reinterpret_cast<const char*>(k[i]) + byte);
        __builtin_prefetch(reinterpret_cast<const char*>(v[i]) + byte);
      }
    }
  }
};

// out[i][key]. Four keys at a time: 4 x 4 transposes inside the 128-bit parts of a vector, then 16-byte moves.
template <class T>
void transpose_keys(const T* const* keys, int64_t d, float* HWY_RESTRICT out) {
  const F32 df;
  const hn::Repartition<double, F32> dd;
  const hn::CappedTag<float, 4> d4;
  HWY_ALIGN float part[4 * kLanes];
  for (int64_t key = 0; key < kKeys; key += 4) {
    for (int64_t i = 0; i < d; i += kLanes) {
      const V v0 = load(keys[key] + i, d - i), v1 = load(keys[key + 1] + i, d - i);
      const V v2 = load(keys[key + 2] + i, d - i), v3 = load(keys[key + 3] + i, d - i);
      const auto low01 = hn::BitCast(dd, hn::InterleaveLower(df, v0, v1)),
                 high01 = hn::BitCast(dd, hn::InterleaveUpper(df, v0, v1));
      const auto low23 = hn::BitCast(dd, hn::InterleaveLower(df, v2, v3)),
                 high23 = hn::BitCast(dd, hn::InterleaveUpper(df, v2, v3));
      hn::Store(hn::BitCast(df, hn::InterleaveLower(dd, low01, low23)), df, part);
      hn::Store(hn::BitCast(df, hn::InterleaveUpper(dd, low01, low23)), df, part + kLanes);
      hn::Store(hn::BitCast(df, hn::InterleaveLower(dd, high01, high23)), df, part + 2 * kLanes);
      hn::Store(hn::BitCast(df, hn::InterleaveUpper(dd, high01, high23)), df, part + 3 * kLanes);
      if (d - i >= kLanes) {
        HWY_UNROLL(16)
        for (int64_t j = 0; j < kLanes; ++j) {
          hn::Store(hn::Load(d4, part + j % 4 * kLanes + j / 4 * 4), d4, out + (i + j) * kKeys + key);
        }
      } else {
        for (int64_t j = 0; j < d - i; ++j) {
          hn::Store(hn::Load(d4, part + j % 4 * kLanes + j / 4 * 4), d4, out + (i + j) * kKeys + key);
        }
      }
    }
  }
}

// out[key][D padded].
template <class T>
void widen_values(const T* const* keys, const Shape4& s, float* HWY_RESTRICT out) {
  for (int64_t key = 0; key < kKeys; ++key) {
    for (int64_t i = 0; i < s.d; i += kLanes) hn::Store(load(keys[key] + i, s.d - i), F32(), out + key * s.padded + i);
  }
}

// scores[kGroup rows][64] = scale * q . keys.
HWY_NOINLINE void score_group(const float* HWY_RESTRICT q, int64_t q_step, const float* HWY_RESTRICT keys, int64_t d,
                              float scale, float* HWY_RESTRICT scores) {
  const F32 df;
  for (int64_t key = 0; key < kKeys; key += kStrip * kLanes) {
    V acc[kGroup][kStrip];
    HWY_UNROLL(8)
    for (int r = 0; r < kGroup; ++r) {
      HWY_UNROLL(8)
      for (int j = 0; j < kStrip; ++j) acc[r][j] = hn::Zero(df);
    }
    for (int64_t i = 0; i < d; ++i) {
      V k[kStrip];
      HWY_UNROLL(8)
      for (int j = 0; j < kStrip; ++j) k[j] = hn::Load(df, keys + i * kKeys + key + j * kLanes);
      HWY_UNROLL(8)
      for (int r = 0; r < kGroup; ++r) {
        const V value = hn::Set(df, q[r * q_step + i]);
        HWY_UNROLL(8)
        for (int j = 0; j < kStrip; ++j) acc[r][j] = hn::MulAdd(value, k[j], acc[r][j]);
      }
    }
    HWY_UNROLL(8)
    for (int r = 0; r < kGroup; ++r) {
      HWY_UNROLL(8)
      for (int j = 0; j < kStrip; ++j) {
        hn::Store(hn::Mul(acc[r][j], hn::Set(df, scale)), df, scores + r * kKeys + key + j * kLanes);
      }
    }
  }
}

// out[kGroup rows] += weights x values over keys [begin, end) and Count vectors.
template <int Count>
HWY_NOINLINE void mix_strip(const float* HWY_RESTRICT weights, const float* HWY_RESTRICT values, int64_t step,
                            int64_t begin, int64_t end, float* HWY_RESTRICT out) {
  const F32 d;
  V acc[kGroup][Count];
  HWY_UNROLL(8)
  for (int r = 0; r < kGroup; ++r) {
    HWY_UNROLL(8)
    for (int j = 0; j < Count; ++j) acc[r][j] = hn::Load(d, out + r * step + j * kLanes);
  }
  for (int64_t key = begin; key < end; ++key) {
    V v[Count];
    HWY_UNROLL(8)
    for (int j = 0; j < Count; ++j) v[j] = hn::Load(d, values + key * step + j * kLanes);
    HWY_UNROLL(8)
    for (int r = 0; r < kGroup; ++r) {
      const V weight = hn::Set(d, weights[r * kKeys + key]);
      HWY_UNROLL(8)
      for (int j = 0; j < Count; ++j) acc[r][j] = hn::MulAdd(weight, v[j], acc[r][j]);
    }
  }
  HWY_UNROLL(8)
  for (int r = 0; r < kGroup; ++r) {
    HWY_UNROLL(8)
    for (int j = 0; j < Count; ++j) hn::Store(acc[r][j], d, out + r * step + j * kLanes);
  }
}

void mix_group(const float* weights, const float* values, int64_t step, int64_t begin, int64_t end, float* out) {
  int64_t i = 0;
  for (; i + kStrip * kLanes <= step; i += kStrip * kLanes)
    mix_strip<kStrip>(weights, values + i, step, begin, end, out + i);
  for (; i < step; i += kLanes) mix_strip<1>(weights, values + i, step, begin, end, out + i);
}

HWY_INLINE float exp_one(float x) {
  return hn::GetLane(hn::Exp(F32(), hn::Set(F32(), x)));
}

// Turns row r's scores into weights and rescales what the row has gathered. Keys outside [first, last] get exactly
// zero.
void soften_row(Scratch& scratch, int64_t r, int64_t block, int64_t step) {
  const F32 d;
  float* scores = scratch.scores + r * kKeys;
  const int64_t first = scratch.first_key[r] - block, last = scratch.last_key[r] - block;
  if (last < 0 || first >= kKeys) {
    std::fill_n(scores, kKeys, 0.0f);
    return;
  }
  V largest = hn::Set(d, kNone);
  if (first > 0 || last < kKeys - 1) {
    for (int64_t i = 0; i < kKeys; ++i) scores[i] = i < first || i > last ? kNone : scores[i];
  }
  for (int64_t i = 0; i < kKeys; i += kLanes) largest = hn::Max(largest, hn::Load(d, scores + i));
  const float before = scratch.split_max[r], now = std::max(before, hn::GetLane(hn::MaxOfLanes(d, largest)));
  V total = hn::Zero(d);
  for (int64_t i = 0; i < kKeys; i += kLanes) {
    const V weight = hn::Exp(d, hn::Sub(hn::Load(d, scores + i), hn::Set(d, now)));
    hn::Store(weight, d, scores + i);
    total = hn::Add(total, weight);
  }
  scratch.split_max[r] = now;
  if (now == before) {  // the factor would be exactly one
    scratch.split_sum[r] += sum(total);
    return;
  }
  const float factor = exp_one(before - now);
  scratch.split_sum[r] = scratch.split_sum[r] * factor + sum(total);
  float* out = scratch.out + r * step;
  for (int64_t i = 0; i < step; i += kLanes) hn::Store(hn::Mul(hn::Load(d, out + i), hn::Set(d, factor)), d, out + i);
}

// The tile's keys [begin, end), inside one split, into scratch.out, split_max and split_sum.
template <class T>
void attend_keys(const AttentionArgs& a, const Shape4& s, const Tile& tile, int64_t begin, int64_t end,
                 Scratch& scratch) {
  const int64_t rows = round_up(tile.rows(), kGroup);
  std::fill_n(scratch.split_max, rows, kNone);
  std::fill_n(scratch.split_sum, rows, 0.0f);
  std::fill_n(scratch.out, rows * s.padded, 0.0f);
  for (int64_t block = begin / kKeys * kKeys; block < end; block += kKeys) {
    const KeyRows<T> keys(a, tile, block, begin, end);
    transpose_keys(keys.k, s.d, scratch.keys);
    widen_values(keys.v, s, scratch.values);
    KeyRows<T>(a, tile, block + kKeys, begin, end).prefetch(s.d);
    const int64_t from = std::max(begin, block) - block, to = std::min(end - block, kKeys);
    for (int64_t r = 0; r < rows; r += kGroup) {
      // Spare rows come last, so the first and last real rows of the group bound what it sees.
      const int64_t real = std::min(r + kGroup, tile.rows()) - 1;
      if (scratch.last_key[real] < block || scratch.first_key[r] >= block + kKeys) continue;
      float* scores = scratch.scores + r * kKeys;
      score_group(scratch.q + r * s.padded, s.padded, scratch.keys, s.d, a.scale, scores);
      for (int64_t i = r; i < r + kGroup; ++i) soften_row(scratch, i, block, s.padded);
      mix_group(scores, scratch.values, s.padded, from, to, scratch.out + r * s.padded);
    }
  }
}

void attend_split(const AttentionArgs& a, const Shape4& s, const Tile& tile, int64_t begin, int64_t end,
                  Scratch& scratch) {
  if (a.cache.k.dtype == DType::kBF16) return attend_keys<hwy::bfloat16_t>(a, s, tile, begin, end, scratch);
  if (a.cache.k.dtype == DType::kF16) return attend_keys<hwy::float16_t>(a, s, tile, begin, end, scratch);
  if (a.cache.k.dtype == DType::kF8E4M3) return attend_keys<E4M3>(a, s, tile, begin, end, scratch);
  attend_keys<float>(a, s, tile, begin, end, scratch);
}

// Adds one split's state to a row's total. A split in which the row saw nothing changes nothing.
HWY_INLINE void merge(float split_max, float split_sum, const float* split_out, int64_t step, float& max, float& sum,
                      float* out) {
  const F32 d;
  if (split_sum == 0.0f) return;
  const float now = std::max(max, split_max), keep = exp_one(max - now), add = exp_one(split_max - now);
  for (int64_t i = 0; i < step; i += kLanes) {
    const V kept = hn::Mul(hn::LoadU(d, out + i), hn::Set(d, keep));
    hn::StoreU(hn::MulAdd(hn::LoadU(d, split_out + i), hn::Set(d, add), kept), d, out + i);
  }
  sum = sum * keep + split_sum * add;
  max = now;
}

// The state before the first split: nothing, or the sink, which counts in the denominator only.
void start_total(const AttentionArgs& a, int64_t head, int64_t step, float& max, float& sum, float* out) {
  std::fill_n(out, step, 0.0f);
  max = kNone, sum = 0.0f;
  if (!a.sinks.defined()) return;
  max = hn::GetLane(load(a.sinks, head, 1)), sum = 1.0f;
}

void store_row(const AttentionArgs& a, const Shape4& s, int64_t token, int64_t head, float sum, const float* total) {
  const F32 d;
  for (int64_t i = 0; i < s.d; i += kLanes) {
    store(a.out, (token * s.heads + head) * s.d + i, s.d - i, hn::Div(hn::LoadU(d, total + i), hn::Set(d, sum)));
  }
}

// Keys that some row of the tile sees.
int64_t tile_begin(const AttentionArgs& a, const Tile& tile) {
  return first_visible(a, tile.position);
}
int64_t tile_end(const Tile& tile) {
  return tile.position + tile.token_count;
}

void whole_task(const AttentionArgs& a, const Shape4& s, const Tile& tile) {
  Scratch scratch;
  load_queries(a, s, tile, scratch);
  const int64_t rows = tile.rows();
  for (int64_t r = 0; r < rows; ++r) {
    start_total(a, tile.head + r % tile.head_count, s.padded, scratch.total_max[r], scratch.total_sum[r],
                scratch.total + r * s.padded);
  }
  for (int64_t begin = tile_begin(a, tile), end = 0; begin < tile_end(tile); begin = end) {
    end = std::min(begin / kSplit * kSplit + kSplit, tile_end(tile));
    attend_split(a, s, tile, begin, end, scratch);
    for (int64_t r = 0; r < rows; ++r) {
      merge(scratch.split_max[r], scratch.split_sum[r], scratch.out + r * s.padded, s.padded, scratch.total_max[r],
            scratch.total_sum[r], scratch.total + r * s.padded);
    }
  }
  for (int64_t r = 0; r < rows; ++r) {
    store_row(a, s, tile.token + r / tile.head_count, tile.head + r % tile.head_count, scratch.total_sum[r],
              scratch.total + r * s.padded);
  }
}

// A row's state for one split in the workspace: padded sums, then the maximum and the denominator.
float* saved_state(const Shape4& s, float* space, int64_t token, int64_t head, int64_t split) {
  return space + ((token * s.heads + head) * s.splits + split) * (s.padded + kLanes);
}

void split_task(const AttentionArgs& a, const Shape4& s, const Tile& tile, int64_t split, float* space) {
  const int64_t begin = std::max(tile_begin(a, tile), split * kSplit),
                end = std::min(tile_end(tile), (split + 1) * kSplit);
  if (begin >= end) return;
  Scratch scratch;
  load_queries(a, s, tile, scratch);
  attend_split(a, s, tile, begin, end, scratch);
  for (int64_t r = 0; r < tile.rows(); ++r) {
    float* state = saved_state(s, space, tile.token + r / tile.head_count, tile.head + r % tile.head_count, split);
    std::copy_n(scratch.out + r * s.padded, s.padded, state);
    state[s.padded] = scratch.split_max[r], state[s.padded + 1] = scratch.split_sum[r];
  }
}

void merge_task(const AttentionArgs& a, const Shape4& s, const Tile& tile, float* space) {
  alignas(64) float total[kMaxHeadDim];
  for (int64_t r = 0; r < tile.rows(); ++r) {
    const int64_t token = tile.token + r / tile.head_count, head = tile.head + r % tile.head_count;
    const int64_t position = tile.position + r / tile.head_count;
    float max = 0, sum = 0;
    start_total(a, head, s.padded, max, sum, total);
    for (int64_t split = first_visible(a, position) / kSplit; split <= position / kSplit; ++split) {
      const float* state = saved_state(s, space, token, head, split);
      merge(state[s.padded], state[s.padded + 1], state, s.padded, max, sum, total);
    }
    store_row(a, s, token, head, sum, total);
  }
}

Verdict supports(const AttentionArgs& a) {
  if (a.q.dim(2) > kMaxHeadDim) return {"the head dimension is larger than 256"};
  if (Verdict v = require_cpu_cache(a.cache); !v) return v;
  return require_cpu_floats({&a.q, &a.sinks, &a.out});
}

int64_t workspace(const AttentionArgs& a) {
  const Shape4 s(a);
  if (!s.split_tasks(a)) return 0;
  return a.q.dim(0) * s.heads * s.splits * (s.padded + kLanes) * static_cast<int64_t>(sizeof(float));
}

void launch(const AttentionArgs& a, Stream& stream) {
  const Shape4 s(a);
  const int64_t tasks = s.tile_tasks(a), grain = std::clamp<int64_t>(tasks / (16 * stream.pool->size()), 1, 64);
  float* space = static_cast<float*>(stream.workspace);
  if (!s.split_tasks(a)) {
    stream.pool->parallel_for(tasks, grain, [&](int64_t begin, int64_t end, int) {
      Tile tile;
      for (int64_t i = begin; i < end; ++i)
        if (find_tile(a, s, i, tile)) whole_task(a, s, tile);
    });
    return;
  }
  stream.pool->parallel_for(tasks * s.splits, 1, [&](int64_t begin, int64_t end, int) {
    Tile tile;
    for (int64_t i = begin; i < end; ++i)
      if (find_tile(a, s, i / s.splits, tile)) split_task(a, s, tile, i % s.splits, space);
  });
  stream.pool->parallel_for(tasks, grain, [&](int64_t begin, int64_t end, int) {
    Tile tile;
    for (int64_t i = begin; i < end; ++i)
      if (find_tile(a, s, i, tile)) merge_task(a, s, tile, space);
  });
}

void add_rows(Kernels& kernels) {
  kernels.attention.rows.push_back(
      {"attention_any_" TS_ARCH, DeviceType::kCpu,
       "online softmax, query heads of a group share keys and values, head dimension up to 256", supports, workspace,
       launch});
}

}  // namespace
}  // namespace tessera::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tessera::cpu {
HWY_EXPORT(add_rows);
void add_attention(Kernels& kernels, int64_t target) {
  TS_FOR_TARGET(add_rows, target)(kernels);
}
}  // namespace tessera::cpu
#endif
