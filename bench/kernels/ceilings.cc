// FMA rate, measured with Highway at the machine's best target.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "bench/kernels/ceilings.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "bench/kernels/ceilings.h"

HWY_BEFORE_NAMESPACE();
namespace tessera::bench::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

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
#include <algorithm>
#include <atomic>

namespace tessera::bench {

HWY_EXPORT(Fma);

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
