// Choice of tokens on the device. A row is cut into segments of 4096 logits, one block each:
//   raw     (log-probabilities) the segment's best tokens, and its sum of exponentials, before anything is changed
//   edit    (masks, edits) in place
//   best    the segment's best token
//   weigh   (temperature) the segment's sum of weights, or, for rows with top-k or top-p, a histogram of the row over
//           1/64 steps below its best logit: tokens and weights
// and one block a row picks: from the sums alone, or from the few tokens that the histogram says are in question. Nothing
// is sorted. Weights are whole numbers, so that no order of addition matters: atomics are exact here.
#include "kernels/cuda/device/ptx.cuh"
#include "kernels/cuda/device/scan.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rows.h"
#include "kernels/sample_math.h"
#include "parallel/communicator.h"

namespace tessera::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kShare = 16;  // logits a thread
constexpr int kSegment = kThreads * kShare;
constexpr int kPickThreads = 1024;
constexpr int kMaxSegments = kPickThreads;
constexpr int kBins = 2048;
constexpr int kListed = 512;  // tokens that a block compares each with each
constexpr int kFew = 256;     // kept tokens worth listing once instead of bin by bin
constexpr int kTop = static_cast<int>(kMaxSampleLogprobs);

struct KernelArgs {
  float* logits;  // [R, V]
  const SampleSettings* settings;
  const int32_t* edit_start;
  const LogitEdit* edits;
  const uint32_t* masks;
  int vocab, segments, mask_words;
  int rows, first, parts, part;  // parts: ranks that have columns of each row; this one's begin with token `first`
  float unit;          // 2^f
  float* saved;        // [N]: edited logits as they were; null unless log-probabilities need them
  uint64_t* best;      // [parts, R, segments]
  uint64_t* mass;      // [parts, R, segments]
  uint64_t *own_best, *own_mass;  // [R, segments]: this rank's; the above, or on their way there
  uint64_t* bin_mass;  // [R, kBins]
  uint32_t* bin_count;
  uint64_t* raw_top;  // [R, segments, kTop]
  double* raw_sum;    // [R, segments]
  int32_t* ids;
  float* logprobs;
  int32_t* top_ids;
  float* top_logprobs;
};

// A token's place in the order (logit descending, id ascending) as one number, larger is better, never 0.
__device__ __forceinline__ uint64_t rank_of(float logit, int id) {
  uint32_t u = __float_as_uint(logit + 0.0f);  // -0 is 0
  u ^= u >> 31 ? 0xffffffffu : 0x80000000u;
  return static_cast<uint64_t>(u) << 32 | (0xffffffffu - static_cast<uint32_t>(id));
}
__device__ __forceinline__ int id_of(uint64_t rank) { return static_cast<int>(0xffffffffu - static_cast<uint32_t>(rank)); }
__device__ __forceinline__ float logit_of(uint64_t rank) {
  uint32_t u = static_cast<uint32_t>(rank >> 32);
  return __uint_as_float(u >> 31 ? u ^ 0x80000000u : ~u);
}

__device__ __forceinline__ float clean(float v) { return isnan(v) ? -INFINITY : v; }

// e^x for x <= 0 to 2^-46, in a third of exp()'s instructions: every logit takes one.
__device__ __forceinline__ double exp_of(double x) {
  if (x < -104.0) return 0.0;  // rounds to F32 zero
  constexpr double kMagic = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to a whole number
  double shifted = fma(x, 1.4426950408889634, kMagic);
  double n = shifted - kMagic;
  double r = fma(n, -6.93147180369123816490e-01, x);
  r = fma(n, -1.90821492927058770002e-10, r);
  double p = 1.0 / 39916800.0;
  p = fma(p, r, 1.0 / 3628800.0);
  p = fma(p, r, 1.0 / 362880.0);
  p = fma(p, r, 1.0 / 40320.0);
  p = fma(p, r, 1.0 / 5040.0);
  p = fma(p, r, 1.0 / 720.0);
  p = fma(p, r, 1.0 / 120.0);
  p = fma(p, r, 1.0 / 24.0);
  p = fma(p, r, 1.0 / 6.0);
  p = fma(p, r, 0.5);
  p = fma(p, r, 1.0);
  p = fma(p, r, 1.0);
  return __hiloint2double(__double2hiint(p) + (__double2loint(shifted) << 20), __double2loint(p));
}

struct Weigher {
  float best;
  double inverse;  // of the temperature
  float unit;

  __device__ __forceinline__ float weight(float logit) const {
    return logit == best ? 1.0f : static_cast<float>(exp_of(static_cast<double>(logit - best) * inverse));
  }
  __device__ __forceinline__ uint64_t mass(float weight) const { return __float2ull_rn(weight * unit); }
  __device__ __forceinline__ int bin(float logit) const {
    return static_cast<int>(fminf((best - logit) * 64.0f, static_cast<float>(kBins - 1)));
  }
};

__device__ __forceinline__ bool cuts(const SampleSettings& s, int vocab) {
  return (s.top_k > 0 && s.top_k < vocab) || s.top_p < 1.0;
}

// The thread's share of a segment: value i is token kSegment * segment + i * kThreads + thread.
__device__ __forceinline__ void load_share(const KernelArgs& a, int row, int segment, float (&v)[kShare]) {
  const float* logits = a.logits + static_cast<int64_t>(row) * a.vocab;
  int first = segment * kSegment + threadIdx.x;
#pragma unroll
  for (int i = 0; i < kShare; ++i) {
    int id = first + i * kThreads;
    v[i] = id < a.vocab ? clean(logits[id]) : -INFINITY;
  }
}

// Where the value of a row's segment lies, counted over all parts.
__device__ __forceinline__ int64_t in_parts(const KernelArgs& a, int row, int segment) {
  return (static_cast<int64_t>(segment / a.segments) * a.rows + row) * a.segments + segment % a.segments;
}

__device__ __forceinline__ uint64_t row_best(const KernelArgs& a, int row, uint64_t* scratch) {
  uint64_t best = 0;
  for (int i = threadIdx.x; i < a.parts * a.segments; i += blockDim.x) {
    uint64_t other = a.best[in_parts(a, row, i)];
    best = other > best ? other : best;
  }
  return block_max(best, scratch);
}

// Grids of the segment kernels: (segments, R).
__global__ void __launch_bounds__(kThreads) raw_kernel(KernelArgs a) {
  wait_for_previous_grid();
  allow_next_grid();
  __shared__ uint64_t scratch[32];
  __shared__ double sums[kThreads / 32];
  int row = blockIdx.y, segment = blockIdx.x;
  int wanted = a.settings[row].logprobs;
  if (wanted < 0) return;
  float v[kShare];
  load_share(a, row, segment, v);
  int first = segment * kSegment + threadIdx.x;
  uint64_t* top = a.raw_top + (static_cast<int64_t>(row) * a.segments + segment) * kTop;
  uint64_t last = ~uint64_t{0};
  float best = -INFINITY;
  for (int round = 0; round < (wanted > 0 ? wanted : 1); ++round) {
    uint64_t next = 0;
#pragma unroll
    for (int i = 0; i < kShare; ++i) {
      int id = first + i * kThreads;
      uint64_t rank = id < a.vocab ? rank_of(v[i], id) : 0;
      if (rank < last && rank > next) next = rank;
    }
    last = block_max(next, scratch);
    if (round == 0) best = logit_of(last);
    if (threadIdx.x == 0) top[round] = last;
  }
  double sum = 0.0;
  if (best > -INFINITY) {
#pragma unroll
    for (int i = 0; i < kShare; ++i) sum += expf(v[i] - best);
  }
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int i = 1; i < kThreads / 32; ++i) sum += sums[i];
    a.raw_sum[static_cast<int64_t>(row) * a.segments + segment] = sum;
  }
}

__global__ void __launch_bounds__(kThreads) edit_kernel(KernelArgs a) {
  wait_for_previous_grid();
  allow_next_grid();
  int row = blockIdx.y, begin = blockIdx.x * kSegment, end = min(begin + kSegment, a.vocab);
  const SampleSettings& s = a.settings[row];
  float* logits = a.logits + static_cast<int64_t>(row) * a.vocab;
  if (a.masks != nullptr && s.mask >= 0) {
    const uint32_t* mask = a.masks + static_cast<int64_t>(s.mask) * a.mask_words;
    for (int i = begin + threadIdx.x; i < end; i += kThreads)
      if (!(mask[i / 32] >> (i % 32) & 1)) logits[i] = -INFINITY;
    __syncthreads();
  }
  if (a.edit_start == nullptr) return;
  for (int i = a.edit_start[row] + threadIdx.x; i < a.edit_start[row + 1]; i += kThreads) {
    LogitEdit e = a.edits[i];
    if (e.token < begin || e.token >= end) continue;
    float l = clean(logits[e.token]);
    l += e.bias;
    if (e.count >= 0) l = l < 0.0f ? __fmul_rn(l, s.repetition_penalty) : l / s.repetition_penalty;
    if (e.count > 0) l -= static_cast<float>(__dadd_rn(__dmul_rn(s.frequency_penalty, e.count), s.presence_penalty));
    logits[e.token] = l;
  }
}

// The logits that edits will change, for log-probabilities of the choice. Grid: (1, R).
__global__ void __launch_bounds__(kThreads) save_kernel(KernelArgs a) {
  wait_for_previous_grid();
  allow_next_grid();
  int row = blockIdx.y;
  for (int i = a.edit_start[row] + threadIdx.x; i < a.edit_start[row + 1]; i += kThreads)
    a.saved[i] = a.logits[static_cast<int64_t>(row) * a.vocab + a.edits[i].token];
}

__global__ void __launch_bounds__(kThreads) best_kernel(KernelArgs a) {
  wait_for_previous_grid();
  allow_next_grid();
  __shared__ uint64_t scratch[32];
  int row = blockIdx.y, segment = blockIdx.x, first = segment * kSegment + threadIdx.x;
  float v[kShare];
  load_share(a, row, segment, v);
  uint64_t best = 0;
#pragma unroll
  for (int i = 0; i < kShare; ++i) {
    int id = first + i * kThreads;
    uint64_t rank = id < a.vocab ? rank_of(v[i], a.first + id) : 0;
    best = rank > best ? rank : best;
  }
  best = block_max(best, scratch);
  if (threadIdx.x == 0) a.own_best[static_cast<int64_t>(row) * a.segments + segment] = best;
  if (a.bin_mass == nullptr) return;
  for (int i = segment * kThreads + threadIdx.x; i < kBins; i += gridDim.x * kThreads) {
    a.bin_mass[static_cast<int64_t>(row) * kBins + i] = 0;
    a.bin_count[static_cast<int64_t>(row) * kBins + i] = 0;
  }
}

// Tokens and weights of a segment by bin, added to the row's.
__device__ void add_histogram(const KernelArgs& a, const Weigher& w, const float (&v)[kShare], int row) {
  __shared__ unsigned long long mass[kBins];
  __shared__ uint32_t count[kBins];
  for (int i = threadIdx.x; i < kBins; i += kThreads) mass[i] = 0, count[i] = 0;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kShare; ++i) {
    uint64_t m = w.mass(w.weight(v[i]));
    if (m == 0) continue;
    int bin = w.bin(v[i]);
    atomicAdd(&mass[bin], static_cast<unsigned long long>(m));
    atomicAdd(&count[bin], 1u);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kBins; i += kThreads)
    if (count[i] > 0) {
      atomicAdd(reinterpret_cast<unsigned long long*>(a.bin_mass) + static_cast<int64_t>(row) * kBins + i, mass[i]);
      atomicAdd(a.bin_count + static_cast<int64_t>(row) * kBins + i, count[i]);
    }
}

template <bool kCuts>
__global__ void __launch_bounds__(kThreads) weigh_kernel(KernelArgs a) {
  wait_for_previous_grid();
  allow_next_grid();
  __shared__ uint64_t scratch[32];
  int row = blockIdx.y, segment = blockIdx.x;
  const SampleSettings& s = a.settings[row];
  if (s.temperature == 0.0) return;
  float v[kShare];
  load_share(a, row, segment, v);
  Weigher w{logit_of(row_best(a, row, scratch)), 1.0 / s.temperature, a.unit};
  if (!isfinite(w.best)) return;
  if constexpr (kCuts) {
    if (cuts(s, a.vocab)) {
      add_histogram(a, w, v, row);
      return;
    }
  }
  uint64_t sum = 0;
#pragma unroll
  for (int i = 0; i < kShare; ++i) {
    float weight = w.weight(v[i]);
    if (static_cast<double>(weight) >= s.min_p) sum += w.mass(weight);
  }
  sum = block_scan(sum, scratch).total;
  if (threadIdx.x == 0) a.own_mass[static_cast<int64_t>(row) * a.segments + segment] = sum;
}

// A draw in the order of ids; -1 when the token is another part's.
__device__ int pick_by_id(const KernelArgs& a, const Weigher& w, const SampleSettings& s, int row, uint64_t* scratch) {
  __shared__ int found;
  __shared__ uint64_t rest;
  int tid = threadIdx.x;
  uint64_t own = tid < a.parts * a.segments ? a.mass[in_parts(a, row, tid)] : 0;
  Scan scan = block_scan(own, scratch);
  uint64_t target = static_cast<uint64_t>(s.uniform * static_cast<double>(scan.total));
  target = target < scan.total ? target : scan.total - 1;
  if (scan.through > target && scan.through - own <= target) {
    found = tid;
    rest = target - (scan.through - own);
  }
  __syncthreads();
  constexpr int kEach = kSegment / kPickThreads;
  if (found / a.segments != a.part) return -1;
  int first = found % a.segments * kSegment + tid * kEach;
  target = rest;
  uint64_t m[kEach];
  own = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    float weight = first + i < a.vocab ? w.weight(clean(a.logits[static_cast<int64_t>(row) * a.vocab + first + i])) : 0.0f;
    m[i] = static_cast<double>(weight) >= s.min_p ? w.mass(weight) : 0;
    own += m[i];
  }
  scan = block_scan(own, scratch);  // its barriers are also between the reads of `found` above and the write below
  uint64_t sum = scan.through - own;
  if (scan.through > target && sum <= target)
    for (int i = 0; i < kEach; ++i) {
      sum += m[i];
      if (sum > target) {
        found = a.first + first + i;
        break;
      }
    }
  __syncthreads();
  return found;
}

// One row with top-k or top-p, seen by the block that picks. Positions and sums run in the order of ranks, from the best.
struct CutRow {
  const float* logits;
  const uint64_t* bin_mass;
  const uint32_t* bin_count;
  Weigher w;
  int vocab;
  uint64_t* scratch;
  uint64_t* ranks;   // [kBins] in shared memory, as are the rest: a list, or the sums of a histogram
  uint64_t* masses;  // [kBins]
  int* listed;
  uint64_t* found;  // [4]
};

struct Element {
  uint64_t rank;
  uint64_t through;  // weights of the tokens up to and with it
};

// Calls f(id, logit) for every token of the row, 16 loads at a time: one block has little else to hide their latency.
template <class F>
__device__ __forceinline__ void each_token(const CutRow& r, F&& f) {
  constexpr int kBatch = 16;
  for (int first = threadIdx.x; first < r.vocab; first += kBatch * kPickThreads) {
    float v[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) v[i] = r.logits[min(first + i * kPickThreads, r.vocab - 1)];
#pragma unroll
    for (int i = 0; i < kBatch; ++i)
      if (first + i * kPickThreads < r.vocab) f(first + i * kPickThreads, clean(v[i]));
  }
}

// Lists the tokens of weight whose bin is in [low, high] and whose rank starts with the `bits` bits of prefix.
__device__ void list_tokens(const CutRow& r, int low, int high, uint64_t prefix, int bits) {
  if (threadIdx.x == 0) *r.listed = 0;
  __syncthreads();
  each_token(r, [&](int id, float v) {
    int bin = r.w.bin(v);
    if (bin < low || bin > high) return;
    uint64_t rank = rank_of(v, id);
    if (bits > 0 && rank >> (64 - bits) != prefix) return;
    uint64_t m = r.w.mass(r.w.weight(v));
    if (m == 0) return;
    int at = atomicAdd(r.listed, 1);
    if (at < kListed) r.ranks[at] = rank, r.masses[at] = m;
  });
  __syncthreads();
}

// Among the listed tokens: the one at position `target` (kCount), or the first whose sum exceeds `target`. Both count from
// what lies before the list.
template <bool kCount>
__device__ Element find_listed(const CutRow& r, uint64_t target, uint64_t count_before, uint64_t mass_before) {
  int n = min(*r.listed, kListed);
  for (int i = threadIdx.x; i < n; i += kPickThreads) {
    uint64_t rank = r.ranks[i], own = r.masses[i], count = count_before, mass = mass_before;
    for (int j = 0; j < n; ++j) {
      bool ahead = r.ranks[j] > rank;
      count += ahead;
      mass += ahead ? r.masses[j] : 0;
    }
    bool here = kCount ? count == target : mass <= target && target < mass + own;
    if (here) r.found[0] = rank, r.found[1] = mass + own;
  }
  __syncthreads();
  Element e{r.found[0], r.found[1]};
  __syncthreads();
  return e;
}

// Of the bins (or digits) in the order of ranks, of which the thread has two: where `target` falls. Sums count from the
// given ones, which become those before the place found.
struct Place {
  int index;
  uint64_t count;  // tokens in it
};
template <bool kCount>
__device__ Place find_place(const CutRow& r, const uint64_t (&count)[2], const uint64_t (&mass)[2], uint64_t target,
                            uint64_t& count_before, uint64_t& mass_before) {
  uint64_t counts = block_scan(count[0] + count[1], r.scratch).through - count[0] - count[1] + count_before;
  uint64_t sums = block_scan(mass[0] + mass[1], r.scratch).through - mass[0] - mass[1] + mass_before;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    uint64_t before = kCount ? counts : sums, own = kCount ? count[i] : mass[i];
    if (before <= target && target < before + own) {
      r.found[0] = 2 * threadIdx.x + i;
      r.found[1] = counts;
      r.found[2] = sums;
      r.found[3] = count[i];
    }
    counts += count[i];
    sums += mass[i];
  }
  __syncthreads();
  Place place{static_cast<int>(r.found[0]), r.found[3]};
  count_before = r.found[1];
  mass_before = r.found[2];
  __syncthreads();
  return place;
}

template <bool kCount>
__device__ Place find_bin(const CutRow& r, uint64_t target, uint64_t& count_before, uint64_t& mass_before) {
  uint64_t count[2], mass[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    count[i] = r.bin_count[2 * threadIdx.x + i];
    mass[i] = r.bin_mass[2 * threadIdx.x + i];
  }
  return find_place<kCount>(r, count, mass, target, count_before, mass_before);
}

// As find_listed, over the whole row: the bin, then, while more tokens are in question than fit the list, 11 more bits of
// the rank at a time.
template <bool kCount>
__device__ Element find_in_row(const CutRow& r, uint64_t target) {
  uint64_t count_before = 0, mass_before = 0, prefix = 0;
  Place place = find_bin<kCount>(r, target, count_before, mass_before);
  int bin = place.index, bits = 0;
  while (place.count > kListed) {
    int step = min(11, 64 - bits), shift = 64 - bits - step;
    uint64_t *mass = r.ranks, *count = r.masses;  // by digit, descending
    for (int i = threadIdx.x; i < kBins; i += kPickThreads) mass[i] = 0, count[i] = 0;
    __syncthreads();
    each_token(r, [&](int id, float v) {
      if (r.w.bin(v) != bin) return;
      uint64_t rank = rank_of(v, id);
      if (bits > 0 && rank >> (64 - bits) != prefix) return;
      uint64_t m = r.w.mass(r.w.weight(v));
      if (m == 0) return;
      int digit = kBins - 1 - static_cast<int>(rank >> shift & ((1u << step) - 1));
      atomicAdd(reinterpret_cast<unsigned long long*>(mass + digit), static_cast<unsigned long long>(m));
      atomicAdd(reinterpret_cast<unsigned long long*>(count + digit), 1ull);
    });
    __syncthreads();
    uint64_t counts[2] = {count[2 * threadIdx.x], count[2 * threadIdx.x + 1]};
    uint64_t masses[2] = {mass[2 * threadIdx.x], mass[2 * threadIdx.x + 1]};
    place = find_place<kCount>(r, counts, masses, target, count_before, mass_before);
    prefix = prefix << step | static_cast<uint64_t>(kBins - 1 - place.index);
    bits += step;
  }
  list_tokens(r, bin, bin, prefix, bits);
  return find_listed<kCount>(r, target, count_before, mass_before);
}

// Weights of at least min_p up to and with the cut.
__device__ uint64_t sum_min_p(const CutRow& r, uint64_t cut, double min_p, bool listed) {
  uint64_t sum = 0;
  auto add = [&](uint64_t rank) {
    if (rank < cut) return;
    float weight = r.w.weight(logit_of(rank));
    if (static_cast<double>(weight) >= min_p) sum += r.w.mass(weight);
  };
  if (listed) {
    for (int i = threadIdx.x; i < *r.listed; i += kPickThreads) add(r.ranks[i]);
  } else {
    each_token(r, [&](int id, float v) { add(rank_of(v, id)); });
  }
  return block_scan(sum, r.scratch).total;
}

__device__ int pick_by_rank(const CutRow& r, const SampleSettings& s) {
  int t = threadIdx.x;
  uint64_t tokens = block_scan(r.bin_count[2 * t] + r.bin_count[2 * t + 1], r.scratch).total;
  uint64_t total = block_scan(r.bin_mass[2 * t] + r.bin_mass[2 * t + 1], r.scratch).total;
  bool top_k = s.top_k > 0 && static_cast<uint64_t>(s.top_k) < tokens;  // the rest has no weight
  auto last_of_top_p = [&](uint64_t sum) {
    uint64_t wanted = static_cast<uint64_t>(ceil(s.top_p * static_cast<double>(sum)));
    wanted = wanted < sum ? wanted : sum;
    return wanted > 0 ? wanted - 1 : 0;
  };
  // When few tokens can be kept, list them all at once.
  int bound = kBins - 1;
  uint64_t kept = tokens;
  if (top_k || s.top_p < 1.0) {
    uint64_t count_before = 0, mass_before = 0;
    Place place = top_k ? find_bin<true>(r, s.top_k - 1, count_before, mass_before)
                        : find_bin<false>(r, last_of_top_p(total), count_before, mass_before);
    bound = place.index;
    kept = count_before + place.count;
  }
  bool listed = kept <= kFew;
  if (listed) list_tokens(r, 0, bound, 0, 0);
  auto at_count = [&](uint64_t target) { return listed ? find_listed<true>(r, target, 0, 0) : find_in_row<true>(r, target); };
  auto at_mass = [&](uint64_t target) { return listed ? find_listed<false>(r, target, 0, 0) : find_in_row<false>(r, target); };
  uint64_t cut = 0;
  if (top_k) {
    Element e = at_count(s.top_k - 1);
    cut = e.rank;
    total = e.through;
  }
  if (s.top_p < 1.0) {
    Element e = at_mass(last_of_top_p(total));
    cut = e.rank;
    total = e.through;
  }
  if (s.min_p > 0.0) total = sum_min_p(r, cut, s.min_p, listed);
  uint64_t target = static_cast<uint64_t>(s.uniform * static_cast<double>(total));
  return id_of(at_mass(target < total ? target : total - 1).rank);
}

// Log-probabilities of the choice and of the best tokens, from what raw_kernel left.
__device__ void report(const KernelArgs& a, int row, int wanted, int id, uint64_t* scratch) {
  __shared__ double terms[kPickThreads / 32];
  __shared__ float chosen;
  const uint64_t* top = a.raw_top + static_cast<int64_t>(row) * a.segments * kTop;
  int rounds = wanted > 0 ? wanted : 1, tid = threadIdx.x;
  uint64_t own = tid < a.segments ? top[tid * kTop] : 0;
  float best = logit_of(block_max(own, scratch));
  double sum = 0.0;
  if (own != 0 && logit_of(own) > -INFINITY)
    sum = a.raw_sum[static_cast<int64_t>(row) * a.segments + tid] * exp(static_cast<double>(logit_of(own)) - best);
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  if (tid % 32 == 0) terms[tid / 32] = sum;
  if (tid == 0) chosen = clean(a.logits[static_cast<int64_t>(row) * a.vocab + id]);
  __syncthreads();
  if (a.saved != nullptr)
    for (int i = a.edit_start[row] + tid; i < a.edit_start[row + 1]; i += kPickThreads)
      if (a.edits[i].token == id) chosen = clean(a.saved[i]);
  sum = 0.0;
  for (int i = 0; i < kPickThreads / 32; ++i) sum += terms[i];
  double log_sum = best > -INFINITY ? best + log(sum) : 0.0;  // no distribution: every log-probability is -inf
  __syncthreads();
  if (tid == 0) a.logprobs[row] = static_cast<float>(chosen - log_sum);
  if (wanted <= 0) return;
  uint64_t last = ~uint64_t{0};
  for (int round = 0; round < min(wanted, a.vocab); ++round) {
    uint64_t next = 0;
    for (int i = tid; i < a.segments * rounds; i += kPickThreads) {
      uint64_t rank = top[i / rounds * kTop + i % rounds];
      if (rank < last && rank > next) next = rank;
    }
    last = block_max(next, scratch);
    if (tid == 0) {
      a.top_ids[row * kTop + round] = id_of(last);
      a.top_logprobs[row * kTop + round] = static_cast<float>(logit_of(last) - log_sum);
    }
  }
}

// Grid: R.
template <bool kCuts>
__global__ void __launch_bounds__(kPickThreads) pick_kernel(KernelArgs a) {
  wait_for_previous_grid();
  allow_next_grid();
  __shared__ uint64_t scratch[32];
  int row = blockIdx.x;
  const SampleSettings& s = a.settings[row];
  uint64_t top = row_best(a, row, scratch);
  int id = id_of(top);
  Weigher w{logit_of(top), 1.0 / s.temperature, a.unit};
  if (s.temperature != 0.0 && isfinite(w.best)) {
    bool by_id = true;
    if constexpr (kCuts) {
      __shared__ uint64_t ranks[kBins], masses[kBins], found[4];
      __shared__ int listed;
      if (cuts(s, a.vocab)) {
        by_id = false;
        CutRow r{a.logits + static_cast<int64_t>(row) * a.vocab,
                 a.bin_mass + static_cast<int64_t>(row) * kBins,
                 a.bin_count + static_cast<int64_t>(row) * kBins,
                 w,
                 a.vocab,
                 scratch,
                 ranks,
                 masses,
                 &listed,
                 found};
        id = pick_by_rank(r, s);
      }
    }
    if (by_id) id = pick_by_id(a, w, s, row, scratch);
  }
  if (threadIdx.x == 0) a.ids[row] = id;
  if (a.raw_top != nullptr && s.logprobs >= 0) report(a, row, s.logprobs, id, scratch);
}

// Each row's choice: all parts know the best token, one knows a drawn one. Grid: R / kThreads.
__global__ void __launch_bounds__(kThreads) join_ids(const int32_t* all, int parts, int rows, int32_t* ids) {
  wait_for_previous_grid();
  allow_next_grid();
  int row = blockIdx.x * kThreads + threadIdx.x;
  if (row >= rows) return;
  int32_t id = -1;
  for (int p = 0; p < parts; ++p) id = max(id, all[p * rows + row]);
  ids[row] = id;
}

int64_t segments_of(const SampleArgs& a) { return ceil_div(a.logits.dim(1), kSegment); }

// Where the parts of the workspace lie; null those that the case does not need.
struct Parts {
  int64_t best = 0, mass = 0, bin_mass = 0, bin_count = 0, raw_top = 0, raw_sum = 0, saved = 0, bytes = 0;
};
Parts parts_of(const SampleArgs& a) {
  Parts p;
  int64_t rows = a.logits.dim(0), segments = segments_of(a);
  auto take = [&](int64_t& at, int64_t bytes) {
    at = p.bytes;
    p.bytes += ceil_div(bytes, 256) * 256;
  };
  take(p.best, rows * segments * 8);
  if (a.any_random) take(p.mass, rows * segments * 8);
  if (a.any_random && a.any_cut) {
    take(p.bin_mass, rows * kBins * 8);
    take(p.bin_count, rows * kBins * 4);
  }
  if (a.any_logprobs) {
    take(p.raw_top, rows * segments * kTop * 8);
    take(p.raw_sum, rows * segments * 8);
    if (a.edit_start.defined()) take(p.saved, ceil_div(a.edits.bytes(), static_cast<int64_t>(sizeof(LogitEdit))) * 4);
  }
  return p;
}

Verdict supports(const SampleArgs& a) {
  if (!on_gpu(a.logits)) return {"the tensors are not on a CUDA device"};
  if (a.logits.dtype != DType::kF32) return {"logits are not F32"};
  if (segments_of(a) > kMaxSegments) return {"more than 4 million tokens in the vocabulary"};
  return kAccepted;
}

KernelArgs kernel_args(const SampleArgs& a, char* workspace) {
  Parts p = parts_of(a);
  KernelArgs k{};
  k.logits = a.logits.f32();
  k.settings = a.settings.as<SampleSettings>();
  k.edit_start = a.edit_start.defined() ? a.edit_start.i32() : nullptr;
  k.edits = a.edits.as<LogitEdit>();
  k.masks = a.masks.as<uint32_t>();
  k.vocab = static_cast<int>(a.logits.dim(1));
  k.segments = static_cast<int>(segments_of(a));
  k.mask_words = a.masks.defined() ? static_cast<int>(a.masks.dim(1)) : 0;
  k.rows = static_cast<int>(a.logits.dim(0));
  k.parts = 1;
  k.unit = static_cast<float>(int64_t{1} << sample_fraction_bits(k.vocab));
  auto at = [&]<class T>(T*& to, int64_t offset) { to = reinterpret_cast<T*>(workspace + offset); };
  at(k.best, p.best);
  if (a.any_random) at(k.mass, p.mass);
  if (a.any_random && a.any_cut) {
    at(k.bin_mass, p.bin_mass);
    at(k.bin_count, p.bin_count);
  }
  if (a.any_logprobs) {
    at(k.raw_top, p.raw_top);
    at(k.raw_sum, p.raw_sum);
    if (k.edit_start != nullptr) at(k.saved, p.saved);
    k.logprobs = a.logprobs.f32();
    k.top_ids = a.top_ids.i32();
    k.top_logprobs = a.top_logprobs.f32();
  }
  k.own_best = k.best;
  k.own_mass = k.mass;
  k.ids = a.ids.i32();
  return k;
}

void run(const SampleArgs& a, Stream& stream) {
  int64_t rows = a.logits.dim(0);
  if (rows == 0) return;
  KernelArgs k = kernel_args(a, static_cast<char*>(stream.workspace));
  dim3 grid(k.segments, rows);
  if (a.any_logprobs) {
    launch("sample raw", raw_kernel, grid, dim3(kThreads), 0, stream, k);
    if (k.saved != nullptr) launch("sample save", save_kernel, dim3(1, rows), dim3(kThreads), 0, stream, k);
  }
  if (k.edit_start != nullptr || k.masks != nullptr) launch("sample edit", edit_kernel, grid, dim3(kThreads), 0, stream, k);
  launch("sample best", best_kernel, grid, dim3(kThreads), 0, stream, k);
  bool cut = a.any_random && a.any_cut;
  if (a.any_random)
    launch("sample weigh", cut ? weigh_kernel<true> : weigh_kernel<false>, grid, dim3(kThreads), 0, stream, k);
  launch("sample pick", cut ? pick_kernel<true> : pick_kernel<false>, dim3(rows), dim3(kPickThreads), 0, stream, k);
}

// Where ranks have columns each, bests, sums and ids of all are gathered; the logits stay where they are.
struct Gathered {
  int64_t segments = 0, one = 0, best = 0, mass = 0, own_ids = 0, ids = 0, bytes = 0;
};
Gathered gathered_of(const SamplePartsArgs& a) {
  Gathered g;
  const int64_t rows = a.sample.logits.dim(0), parts = a.communicator->size();
  g.segments = ceil_div(a.widest, kSegment);
  g.one = ceil_div(rows * g.segments * 8, 256) * 256;
  auto take = [&](int64_t& at, int64_t bytes) {
    at = g.bytes;
    g.bytes += ceil_div(bytes, 256) * 256;
  };
  take(g.best, g.one * (1 + parts));  // this rank's, then everyone's
  take(g.mass, g.one * (1 + parts));
  take(g.own_ids, rows * 4);
  take(g.ids, parts * rows * 4);
  return g;
}

Verdict supports_parts(const SamplePartsArgs& a) {
  if (Verdict v = supports(a.sample); !v) return v;
  if (ceil_div(a.widest, kSegment) * a.communicator->size() > kMaxSegments) return {"more than 4 million tokens in the vocabulary"};
  if (a.sample.any_cut || a.sample.any_logprobs || a.sample.edit_start.defined() || a.sample.masks.defined())
    return {"rows that need whole logits"};
  return kAccepted;
}

void run_parts(const SamplePartsArgs& a, Stream& stream) {
  const int64_t rows = a.sample.logits.dim(0), parts = a.communicator->size();
  if (rows == 0) return;
  const Gathered g = gathered_of(a);
  char* workspace = static_cast<char*>(stream.workspace);
  const Device device = a.sample.logits.device;
  auto values = [&](int64_t at) { return reinterpret_cast<uint64_t*>(workspace + at); };
  KernelArgs k{};
  k.logits = a.sample.logits.f32();
  k.settings = a.sample.settings.as<SampleSettings>();
  k.vocab = static_cast<int>(a.sample.logits.dim(1));
  k.segments = static_cast<int>(g.segments);
  k.unit = static_cast<float>(int64_t{1} << sample_fraction_bits(static_cast<int>(a.vocab_size)));
  k.rows = static_cast<int>(rows);
  k.first = static_cast<int>(a.first);
  k.parts = static_cast<int>(parts);
  k.part = a.communicator->rank();
  k.own_best = values(g.best), k.best = values(g.best + g.one);
  k.own_mass = values(g.mass), k.mass = values(g.mass + g.one);
  k.ids = reinterpret_cast<int32_t*>(workspace + g.own_ids);
  auto gather = [&](const void* mine, void* all, int64_t bytes) {
    a.communicator->all_gather({const_cast<void*>(mine), {bytes}, DType::kU8, device}, {all, {parts, bytes}, DType::kU8, device},
                               stream.native);
  };
  const dim3 grid(k.segments, rows);
  launch("sample best", best_kernel, grid, dim3(kThreads), 0, stream, k);
  gather(k.own_best, k.best, rows * g.segments * 8);
  if (a.sample.any_random) {
    launch("sample weigh", weigh_kernel<false>, grid, dim3(kThreads), 0, stream, k);
    gather(k.own_mass, k.mass, rows * g.segments * 8);
  }
  launch("sample pick", pick_kernel<false>, dim3(rows), dim3(kPickThreads), 0, stream, k);
  int32_t* ids = reinterpret_cast<int32_t*>(workspace + g.ids);
  gather(k.ids, ids, rows * 4);
  launch("sample ids", join_ids, dim3(ceil_div(rows, kThreads)), dim3(kThreads), 0, stream, ids, k.parts, k.rows, a.sample.ids.i32());
}

}  // namespace

KernelRow<SamplePartsArgs> sample_parts_row() {
  return {"sample_parts_f32_cuda", DeviceType::kCuda, "bests and sums travel, logits do not", supports_parts,
          [](const SamplePartsArgs& a) { return gathered_of(a).bytes; }, run_parts};
}

KernelRow<SampleArgs> sample_row() {
  return {"sample_f32_cuda", DeviceType::kCuda, "histogram and whole-number sums, no sort", supports,
          [](const SampleArgs& a) { return parts_of(a).bytes; }, run};
}

}  // namespace tessera::cuda
