// Read bandwidth and FMA rate, measured with Highway at the machine's best target.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "bench/kernels/ceilings.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "bench/kernels/bandwidth.h"

HWY_BEFORE_NAMESPACE();
namespace tessera::bench::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

uint64_t Sum(const uint64_t* p, int64_t count) {
  const hn::ScalableTag<uint64_t> d;
  const int64_t n = hn::Lanes(d);
  auto a = hn::Zero(d), b = a, c = a, e = a;
  for (int64_t i = 0; i < count; i += 4 * n) {
    a = hn::Xor(a, hn::Load(d, p + i));
    b = hn::Xor(b, hn::Load(d, p + i + n));
    c = hn::Xor(c, hn::Load(d, p + i + 2 * n));
    e = hn::Xor(e, hn::Load(d, p + i + 3 * n));
  }
  return hn::GetLane(hn::Xor(hn::Xor(a, b), hn::Xor(c, e)));
}

// 10 independent chains: as many as latency times ports needs. Returns the number of scalar multiply-adds.
int64_t Fma(int64_t rounds, float* sink) {
  const hn::ScalableTag<float> d;
  const auto x = hn::Set(d, 0.999f), y = hn::Set(d, 0.001f);
  auto a = hn::Set(d, 1.0f), b = hn::Set(d, 2.0f), c = hn::Set(d, 3.0f), e = hn::Set(d, 4.0f), f = hn::Set(d, 5.0f);
  auto g = hn::Set(d, 6.0f), h = hn::Set(d, 7.0f), i = hn::Set(d, 8.0f), j = hn::Set(d, 9.0f), k = hn::Set(d, 10.0f);
  for (int64_t r = 0; r < rounds; ++r) {
    a = hn::MulAdd(a, x, y), b = hn::MulAdd(b, x, y), c = hn::MulAdd(c, x, y), e = hn::MulAdd(e, x, y);
    f = hn::MulAdd(f, x, y), g = hn::MulAdd(g, x, y), h = hn::MulAdd(h, x, y), i = hn::MulAdd(i, x, y);
    j = hn::MulAdd(j, x, y), k = hn::MulAdd(k, x, y);
  }
  a = hn::Add(hn::Add(hn::Add(a, b), hn::Add(c, e)), hn::Add(hn::Add(f, g), hn::Add(h, i)));
  *sink = hn::GetLane(hn::Add(a, hn::Add(j, k)));
  return rounds * 10 * static_cast<int64_t>(hn::Lanes(d));
}

}  // namespace tessera::bench::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <sys/mman.h>

#include <algorithm>
#include <atomic>

#include "core/error.h"

namespace tessera::bench {

HWY_EXPORT(Sum);
HWY_EXPORT(Fma);

double read_bandwidth(ThreadPool& pool, int64_t bytes, int repeats) {
  constexpr int64_t kChunk = int64_t{1} << 20;
  bytes = std::max(bytes / kChunk, int64_t{1}) * kChunk;
  void* map = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED) fail(ErrorCode::kOutOfMemory, "no memory for a {} byte buffer", bytes);
  madvise(map, static_cast<size_t>(bytes), MADV_HUGEPAGE);
  uint64_t* words = static_cast<uint64_t*>(map);
  pool.parallel_for(bytes / kChunk, 1, [&](int64_t begin, int64_t end, int) {
    std::fill(words + begin * kChunk / 8, words + end * kChunk / 8, uint64_t{1});
  });
  std::atomic<uint64_t> sink{0};
  double best = 0;
  // In pieces of a few milliseconds, so that the best one was not interrupted.
  const int64_t piece = std::min<int64_t>(bytes / kChunk, 64);
  for (int r = 0; r < repeats; ++r) {
    for (int64_t first = 0; first + piece <= bytes / kChunk; first += piece) {
      double start = seconds_now();
      pool.parallel_for(piece, 1, [&](int64_t begin, int64_t end, int) {
        sink ^= HWY_DYNAMIC_DISPATCH(Sum)(words + (first + begin) * kChunk / 8, (end - begin) * kChunk / 8);
      });
      best = std::max(best, static_cast<double>(piece * kChunk) / (seconds_now() - start));
    }
  }
  munmap(map, static_cast<size_t>(bytes));
  return best;
}

double fma_rate(ThreadPool& pool, int repeats) {
  double best = 0;
  for (int r = 0; r < 50 * repeats; ++r) {
    std::atomic<int64_t> done{0};
    double start = seconds_now();
    pool.parallel_for(pool.size(), 1, [&](int64_t begin, int64_t end, int) {
      float sink = 0;
      for (int64_t i = begin; i < end; ++i) done += HWY_DYNAMIC_DISPATCH(Fma)(200'000, &sink);
      volatile float keep = sink;
      (void)keep;
    });
    best = std::max(best, static_cast<double>(done) / (seconds_now() - start));
  }
  return best;
}

}  // namespace tessera::bench
#endif
