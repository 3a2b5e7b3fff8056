// Linear rows against the reference and against a sum in double, and the same bits in any company.
#include "kernels/testing.h"

namespace tessera {
namespace {

using namespace tessera::testing;

enum class Kind { kF32, kBF16, kF16, kMxfp4 };
constexpr Kind kKinds[] = {Kind::kF32, Kind::kBF16, Kind::kF16, Kind::kMxfp4};

Weight make_weight(Operands& o, Kind kind, int64_t n, int64_t k) {
  if (kind == Kind::kMxfp4) return o.mxfp4(1, n, k);
  Weight w = o.plain(kind == Kind::kF32 ? DType::kF32 : kind == Kind::kBF16 ? DType::kBF16 : DType::kF16, 1, n, k);
  w.values.shape = {n, k};
  return w;
}

// Runs every row on one case; returns nothing, fails on any difference.
void check(Kind kind, DType act, DType out_type, int64_t tokens, int64_t n, int64_t k, bool bias) {
  uint32_t seed = fresh_seed();
  SCOPED_TRACE("seed " + std::to_string(seed) + " weight " + std::to_string(static_cast<int>(kind)) +
               " T=" + std::to_string(tokens) + " N=" + std::to_string(n) + " K=" + std::to_string(k));
  Operands o(seed);
  ThreadPool pool(2);
  LinearArgs args{o.normal(act, {tokens, k}), make_weight(o, kind, n, k), {}, {}};
  if (bias) args.bias = o.normal(o.random() % 2 ? act : DType::kF32, {n});
  auto rows = accepting_rows(&Kernels::linear, args);
  LinearArgs expected = args;
  expected.out = o.guarded(out_type, {tokens, n});
  launch(rows.back(), expected, pool);
  // One or few results may all but cancel, and errors are as large as their terms: other tokens tell what is usual.
  double usual = 0;
  if (tokens * n < 32) {
    LinearArgs others = args;
    others.x = o.normal(act, {32, k});
    others.out = o.guarded(out_type, {32, n});
    launch(rows.back(), others, pool);
    usual = largest_of(others.out);
  }
  for (const auto& row : rows) {
    args.out = o.guarded(out_type, {tokens, n});
    launch(row, args, pool);
    expect_close(args.out, expected.out, 3e-6, row.name, 1, usual);
  }
  o.check_guards();
}

TEST(Linear, EveryRowAgreesWithTheReference) {
  for (Kind kind : kKinds) {
    for (DType act : kFloats) {
      for (int64_t tokens : {1, 2, 3, 4, 5, 6, 7, 13, 49, 100}) {
        for (int64_t n : {1, 3, 8, 63, 65, 200}) {
          int64_t k = kind == Kind::kMxfp4 ? 32 * (1 + (n + tokens) % 5) : 1 + (n * 7 + tokens * 3) % 150;
          check(kind, act, n % 2 ? act : DType::kF32, tokens, n, k, n % 3 != 0);
        }
      }
    }
  }
}

TEST(Linear, LongRowsAndManyTokens) {
  for (Kind kind : kKinds) {
    check(kind, DType::kF32, DType::kF32, 1, 150, 2880, true);
    check(kind, DType::kBF16, DType::kBF16, 9, 70, 1056, true);
    check(kind, DType::kF32, DType::kF32, 900, 5, 64, false);  // more tokens than one pass prepares
  }
}

TEST(Linear, NoTokens) {
  Operands o(1);
  ThreadPool pool(2);
  LinearArgs args{o.normal(DType::kF32, {0, 64}), o.mxfp4(1, 8, 64), {}, o.guarded(DType::kF32, {0, 8})};
  for (const auto& row : accepting_rows(&Kernels::linear, args)) launch(row, args, pool);
  o.check_guards();
}

// Each row of the weight has one scale byte, over all of 0..254, so that every scale is seen and compared on its own.
TEST(Linear, Mxfp4EveryScaleByte) {
  for (int64_t tokens : {1, 3, 40}) {
    uint32_t seed = fresh_seed();
    SCOPED_TRACE(seed);
    Operands o(seed);
    ThreadPool pool(1);
    const int64_t k = 96, n = 255;
    LinearArgs args{o.normal(DType::kF32, {tokens, k}), o.mxfp4(1, n, k), {}, {}};
    for (int64_t i = 0; i < n * k / 32; ++i) args.w.scales.as<uint8_t>()[i] = static_cast<uint8_t>(i / (k / 32));
    constexpr double kE2m1[16] = {0, .5, 1, 1.5, 2, 3, 4, 6, -0., -.5, -1, -1.5, -2, -3, -4, -6};
    for (const auto& row : accepting_rows(&Kernels::linear, args)) {
      args.out = o.guarded(DType::kF32, {tokens, n});
      launch(row, args, pool);
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t r = 0; r < n; ++r) {
          double sum = 0, size = 0;
          for (int64_t i = 0; i < k; ++i) {
            uint8_t byte = args.w.values.as<uint8_t>()[(r * k + i) / 2];
            double term =
                std::ldexp(kE2m1[i % 2 ? byte >> 4 : byte & 15], static_cast<int>(r) - 127) * args.x.f32()[t * k + i];
            sum += term, size += std::fabs(term);
          }
          float got = args.out.f32()[t * n + r];
          // 4 x 2^127 is no F32; below it the terms may still overflow in the sum.
          if (r >= 252 || size > 1e38) continue;
          ASSERT_LE(std::fabs(got - sum), 1e-6 * size + k * 0x1p-149) << row.name << " scale byte " << r;
          if (size > 1e-36) {
            ASSERT_NE(got, 0.0f) << row.name << " scale byte " << r;
          }
        }
      }
    }
    o.check_guards();
  }
}

// Exactness of every nibble at both positions and in each place of a block: one-hot tokens read single weights back.
TEST(Linear, Mxfp4OneHotTokensReadTheWeights) {
  Operands o(fresh_seed());
  ThreadPool pool(2);
  const int64_t k = 64, n = 37;
  LinearArgs args{o.normal(DType::kF32, {k, k}), o.mxfp4(1, n, k), {}, {}};
  for (int64_t i = 0; i < k * k; ++i) args.x.f32()[i] = i / k == i % k ? 1.0f : 0.0f;
  auto rows = accepting_rows(&Kernels::linear, args);
  LinearArgs expected = args;
  expected.out = o.guarded(DType::kF32, {k, n});
  launch(rows.back(), expected, pool);
  for (const auto& row : rows) {
    args.out = o.guarded(DType::kF32, {k, n});
    launch(row, args, pool);
    for (int64_t i = 0; i < k * n; ++i) ASSERT_EQ(args.out.f32()[i], expected.out.f32()[i]) << row.name;
  }
}

TEST(Linear, SameBitsInAnyCompanyAndOnAnyNumberOfThreads) {
  for (Kind kind : kKinds) {
    for (int64_t k : {64, 2880, 1000}) {
      if (kind == Kind::kMxfp4 && k % 32) continue;
      uint32_t seed = fresh_seed();
      SCOPED_TRACE(seed);
      Operands o(seed);
      const int64_t tokens = 61, n = 134;
      LinearArgs all{o.normal(DType::kBF16, {tokens, k}), make_weight(o, kind, n, k), o.normal(DType::kF32, {n}), {}};
      for (const auto& row : accepting_rows(&Kernels::linear, all)) {
        ThreadPool two(2);
        all.out = o.guarded(DType::kF32, {tokens, n});
        launch(row, all, two);
        for (int64_t group : {1, 2, 3, 4, 5, 20}) {
          ThreadPool pool(static_cast<int>(group % 3 + 1));
          for (int64_t t = 0; t < tokens; t += 2 * group) {
            int64_t count = std::min(group, tokens - t);
            LinearArgs some = all;
            some.x = all.x.rows(t, count);
            some.out = o.guarded(DType::kF32, {count, n});
            launch(row, some, pool);
            expect_same_bits(some.out, all.out.rows(t, count),
                             row.name + std::string(" in groups of ") + std::to_string(group));
          }
        }
      }
    }
  }
}

TEST(Linear, RefusesWhatItCannotRead) {
  Operands o(1);
  LinearArgs args{o.normal(DType::kF32, {1, 48}), o.mxfp4(1, 8, 64), {}, o.guarded(DType::kF32, {1, 8})};
  args.w.k = 48;
  for (const auto& row : all_rows(&Kernels::linear)) EXPECT_FALSE(row.supports(args)) << row.name;
  EXPECT_STREQ(all_rows(&Kernels::linear).back().supports(args).refusal, "an MXFP4 row is not a multiple of 32 values");
  args.w = o.plain(DType::kF32, 1, 8, 48);
  args.x.dtype = DType::kI32;
  for (const auto& row : all_rows(&Kernels::linear)) EXPECT_FALSE(row.supports(args));
  args.x.dtype = DType::kF32;
  args.w.values.device = {DeviceType::kCuda, 0};
  for (const auto& row : all_rows(&Kernels::linear)) EXPECT_FALSE(row.supports(args));
}

}  // namespace
}  // namespace tessera
