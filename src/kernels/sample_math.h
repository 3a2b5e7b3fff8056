// Numbers that every kernel of the sample op shares.
#pragma once

#include <bit>
#include <cstdint>

namespace tessera {

// Weights are whole numbers of 2^-f: V of them, each at most 1, have a sum below 2^63.
constexpr int sample_fraction_bits(int64_t vocab) {
  return 63 - std::bit_width(static_cast<uint64_t>(vocab));
}

}  // namespace tessera
