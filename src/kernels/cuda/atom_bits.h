// Where one value of an atom lies: the bit-level part of mxfp4_atoms.h, shared by host and device code.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define TS_HOST_DEVICE __host__ __device__
#else
#define TS_HOST_DEVICE
#endif

namespace tessera::cuda {

// A 4-bit code (bit 3 sign, bits 2..0 exponent/mantissa) placed in the half word of register p.
TS_HOST_DEVICE constexpr uint32_t place_code(uint32_t code, int p) {
  uint32_t sign = code >> 3;
  uint32_t em = code & 7;
  if (p < 3) return (sign << (15 - 3 * p)) | (em << (6 - 3 * p));
  return (sign << 14) | ((em >> 2) << 13) | ((em & 3) << 10);
}

TS_HOST_DEVICE constexpr uint32_t take_code(uint32_t half, int p) {
  if (p < 3) return (((half >> (15 - 3 * p)) & 1) << 3) | ((half >> (6 - 3 * p)) & 7);
  return (((half >> 14) & 1) << 3) | (((half >> 13) & 1) << 2) | ((half >> 10) & 3);
}

// Register p of a word: two bf16 values times 2^-126.
TS_HOST_DEVICE constexpr uint32_t fragment_bits(uint32_t word, int p) {
  if (p < 3) return (word << (3 * p)) & 0x81c081c0u;
  return ((word << 1) & 0x80008000u) | ((word >> 5) & 0x01000100u) | ((word >> 4) & 0x00c000c0u);
}

// Word j of lane (g, c) of a warp: the code of (row 2g + row_bit, column) sits in register p, half h.
// Register p = 2 * (column pair) + row_bit; half = column parity.
struct WordSlot {
  int row;     // inside the warp's 16 rows
  int column;  // inside the atom's 64 columns
};
TS_HOST_DEVICE constexpr WordSlot word_slot(int lane, int word, int p, int half) {
  int g = lane >> 2;
  int c = lane & 3;
  return {2 * g + (p & 1), 32 * (word >> 1) + 8 * c + 4 * (word & 1) + 2 * (p >> 1) + half};
}

}  // namespace tessera::cuda
