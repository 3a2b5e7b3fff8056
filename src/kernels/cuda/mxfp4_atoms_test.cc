// The atom arrangement on the host: exact inverse, every code decodes to its value, no padding at gpt-oss's sizes.
#include "kernels/cuda/mxfp4_atoms.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "core/dtype.h"
#include "kernels/cuda/atom_bits.h"

namespace tessera::cuda {
namespace {

TEST(Mxfp4Atoms, InverseIsExact) {
  std::mt19937 random(20261121);
  for (auto [n, k] : {std::pair<int64_t, int64_t>{64, 64}, {128, 192}, {192, 2880}}) {
    std::vector<uint8_t> values(static_cast<size_t>(n * k / 2)), scales(static_cast<size_t>(n * k / 32));
    for (uint8_t& v : values) v = static_cast<uint8_t>(random());
    for (uint8_t& s : scales) s = static_cast<uint8_t>(random() % (kAtomMaxScale + 1));
    std::vector<uint8_t> atoms(static_cast<size_t>(atoms_bytes(1, n, k)));
    EXPECT_EQ(to_atoms(values.data(), scales.data(), n, k, atoms.data()),
              *std::max_element(scales.begin(), scales.end()));
    std::vector<uint8_t> back_values(values.size()), back_scales(scales.size());
    from_atoms(atoms.data(), n, k, back_values.data(), back_scales.data());
    EXPECT_EQ(values, back_values);
    EXPECT_EQ(scales, back_scales);
  }
}

TEST(Mxfp4Atoms, EveryCodeDecodesToItsValue) {
  const float table[16] = {0, .5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -.5f, -1, -1.5f, -2, -3, -4, -6};
  for (int p = 0; p < 4; ++p)
    for (uint32_t lo = 0; lo < 16; ++lo)
      for (uint32_t hi = 0; hi < 16; ++hi) {
        // The other registers' bits must not leak in: fill them.
        uint32_t word = 0;
        for (int q = 0; q < 4; ++q)
          word |= q == p ? place_code(lo, q) | place_code(hi, q) << 16 : place_code(15, q) * 0x10001u;
        uint32_t bits = fragment_bits(word, p);
        EXPECT_EQ(std::ldexp(bf16_to_float(static_cast<uint16_t>(bits)), 126), table[lo]);
        EXPECT_EQ(std::ldexp(bf16_to_float(static_cast<uint16_t>(bits >> 16)), 126), table[hi]);
        EXPECT_EQ(take_code(word & 0xffff, p), lo);
        EXPECT_EQ(take_code(word >> 16, p), hi);
      }
}

TEST(Mxfp4Atoms, LargestScaleIsReported) {
  std::vector<uint8_t> values(64 * 32), scales(64 * 2, 120), atoms(kAtomBytes);
  scales[77] = 131;
  EXPECT_EQ(to_atoms(values.data(), scales.data(), 64, 64, atoms.data()), 131);
}

TEST(Mxfp4Atoms, GptOssNeedsNoPadding) {
  EXPECT_TRUE(fits_atoms(5760, 2880));
  EXPECT_TRUE(fits_atoms(2880, 2880));
  EXPECT_EQ(atoms_bytes(32, 5760, 2880), 32 * (5760 * 2880 / 2 + 5760 * 90));
}

}  // namespace
}  // namespace tessera::cuda
