// The arrangement of MXFP4 weights that the matrix-unit kernels read: atoms of 64 rows x 64 columns, 2176 bytes each
// (2048 of values, then 128 of scales), atoms of a row strip consecutive along K. gpt-oss's 2880 and 5760 are whole
// numbers of atoms, so nothing is padded. The map is a bijection: to_atoms and from_atoms are exact inverses.
//
// Warp w of a strip owns rows 16w..16w+15; lane 4g+c owns rows r = 16w+2g and r+1 (gate and up of one unit in an
// interleaved gate_up) and, of each block of 32 columns, columns 8c..8c+7. Its 16 bytes are at w*512 + lane*16; word
// 2b+s holds columns 32b + 8c + 4s .. +3 of both rows, as the four 2-value registers of an mma.m16n8k16 A fragment:
// register 0 = (row r, columns +0,+1), 1 = (r+1, +0,+1), 2 = (r, +2,+3), 3 = (r+1, +2,+3). Fragment columns are
// therefore a permutation of matrix columns inside each 32, matched by 16-byte loads of the activations.
// In a word, register p of 0..2 has sign at bit 15-3p and exponent/mantissa at bits 8-3p..6-3p of each half; register 3
// has sign at bit 14 and exponent/mantissa at bits 13, 11, 10: shifts and masks then yield bf16 values times 2^-126.
// Scale byte j of quad (w, g), at 2048 + w*32 + g*4 + j: row r + j%2, block j/2, stored as e + 126 - the bf16 exponent
// of scale * 2^126. So scales above 2 (e > 128) do not fit; to_atoms refuses them.
#pragma once

#include <cstdint>

#include "core/tensor.h"

namespace tessera::cuda {

constexpr int64_t kAtomRows = 64;
constexpr int64_t kAtomColumns = 64;
constexpr int64_t kAtomValueBytes = 2048;
constexpr int64_t kAtomBytes = 2176;
constexpr int kAtomScaleOffset = 126;
constexpr int kAtomMaxScale = 128;  // E8M0 code of 2

// Whether [N, K] is a whole number of atoms.
constexpr bool fits_atoms(int64_t n, int64_t k) {
  return n % kAtomRows == 0 && k % kAtomColumns == 0;
}
constexpr int64_t atoms_bytes(int64_t experts, int64_t n, int64_t k) {
  return experts * (n / kAtomRows) * (k / kAtomColumns) * kAtomBytes;
}

// Host: one matrix [n, k] from the checkpoint's layout. Returns the largest E8M0 code seen; the result is valid only if
// that is <= kAtomMaxScale. Thread-safe.
int to_atoms(const uint8_t* values, const uint8_t* scales, int64_t n, int64_t k, uint8_t* atoms);
// Host: the exact inverse.
void from_atoms(const uint8_t* atoms, int64_t n, int64_t k, uint8_t* values, uint8_t* scales);

// Device: E matrices, all pointers in device memory, in stream order. *max_scale (device, set to 0 by the caller) gets
// the largest E8M0 code seen. The caller synchronises before the first kernel that reads the atoms.
void to_atoms_device(const Weight& checkpoint, uint8_t* atoms, int* max_scale, void* stream);

}  // namespace tessera::cuda
