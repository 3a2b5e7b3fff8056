#include "loading/cast.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "core/error.h"

namespace tessera {
namespace {

std::vector<float> sample() {
  return {0.0f, -0.0f, 1.0f, 1.00390625f, -3.14159f, 65504.0f, 1e-7f, 3e38f, INFINITY, 0.1f};
}

TEST(Cast, RoundsToNearestEvenAndWidensExactly) {
  std::vector<float> x = sample(), back(x.size());
  std::vector<uint16_t> half(x.size()), brain(x.size()), other(x.size());
  auto n = static_cast<int64_t>(x.size());
  cast_values(x.data(), DType::kF32, half.data(), DType::kF16, n);
  cast_values(x.data(), DType::kF32, brain.data(), DType::kBF16, n);
  EXPECT_EQ(brain[3], 0x3f80);  // 1 + 2^-8 lies half-way and goes to the even neighbour, 1
  for (size_t i = 0; i < x.size(); ++i) {
    EXPECT_EQ(half[i], float_to_f16(x[i]));
    EXPECT_EQ(brain[i], float_to_bf16(x[i]));
  }
  cast_values(brain.data(), DType::kBF16, back.data(), DType::kF32, n);
  for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(back[i], bf16_to_float(brain[i]));
  cast_values(brain.data(), DType::kBF16, other.data(), DType::kF16, n);
  for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(other[i], float_to_f16(bf16_to_float(brain[i])));
}

TEST(Cast, SourcesMayBeMisaligned) {
  std::vector<float> x = sample(), out(x.size());
  std::vector<char> bytes(x.size() * 4 + 1);
  std::memcpy(bytes.data() + 1, x.data(), x.size() * 4);
  cast_values(bytes.data() + 1, DType::kF32, out.data(), DType::kF32, static_cast<int64_t>(x.size()));
  EXPECT_EQ(std::memcmp(out.data(), x.data(), x.size() * 4), 0);
  std::vector<uint16_t> brain(x.size());
  cast_values(bytes.data() + 1, DType::kF32, brain.data(), DType::kBF16, static_cast<int64_t>(x.size()));
  EXPECT_EQ(brain[2], 0x3f80);
}

TEST(Cast, ChangesValues) {
  EXPECT_FALSE(changes_values(DType::kBF16, DType::kF32));
  EXPECT_FALSE(changes_values(DType::kF16, DType::kF16));
  EXPECT_TRUE(changes_values(DType::kBF16, DType::kF16));
  EXPECT_TRUE(changes_values(DType::kF32, DType::kBF16));
}

TEST(Transpose, AnyShapeAnyRange) {
  for (int64_t k : {1, 31, 32, 70}) {
    for (int64_t n : {1, 33, 64, 100}) {
      std::vector<float> src(static_cast<size_t>(k * n)), dst(src.size(), -1);
      for (size_t i = 0; i < src.size(); ++i) src[i] = static_cast<float>(i);
      TransposeArgs args{.src = src.data(), .from = DType::kF32, .dst = dst.data(), .to = DType::kF32, .n = n, .k = k};
      transpose_columns(args, 0, n / 2);
      transpose_columns(args, n / 2, n);
      for (int64_t c = 0; c < n; ++c)
        for (int64_t r = 0; r < k; ++r)
          ASSERT_EQ(dst[static_cast<size_t>(c * k + r)], src[static_cast<size_t>(r * n + c)]) << k << " " << n;
    }
  }
}

}  // namespace
}  // namespace tessera
