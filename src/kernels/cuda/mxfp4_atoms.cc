#include "kernels/cuda/mxfp4_atoms.h"

#include <algorithm>
#include <cstring>

#include "kernels/cuda/atom_bits.h"

namespace tessera::cuda {
namespace {

uint32_t code_at(const uint8_t* values, int64_t k, int64_t row, int64_t column) {
  uint8_t byte = values[row * (k / 2) + column / 2];
  return column % 2 == 0 ? byte & 15 : byte >> 4;
}

}  // namespace

int to_atoms(const uint8_t* values, const uint8_t* scales, int64_t n, int64_t k, uint8_t* atoms) {
  TS_CHECK(fits_atoms(n, k));
  int largest = 0;
  for (int64_t strip = 0; strip < n / kAtomRows; ++strip) {
    for (int64_t column_atom = 0; column_atom < k / kAtomColumns; ++column_atom) {
      uint8_t* atom = atoms + (strip * (k / kAtomColumns) + column_atom) * kAtomBytes;
      for (int thread = 0; thread < 128; ++thread) {
        int64_t row0 = strip * kAtomRows + (thread / 32) * 16;
        for (int word = 0; word < 4; ++word) {
          uint32_t bits = 0;
          for (int p = 0; p < 4; ++p)
            for (int half = 0; half < 2; ++half) {
              WordSlot slot = word_slot(thread % 32, word, p, half);
              uint32_t code = code_at(values, k, row0 + slot.row, column_atom * kAtomColumns + slot.column);
              bits |= place_code(code, p) << (16 * half);
            }
          std::memcpy(atom + thread * 16 + word * 4, &bits, 4);
        }
        // One scale byte a thread: quad (w, g), byte j.
        int w = thread / 32, g = thread % 32 / 4, j = thread % 4;
        int64_t row = strip * kAtomRows + w * 16 + 2 * g + j % 2;
        int e = scales[row * (k / 32) + column_atom * 2 + j / 2];
        largest = std::max(largest, e);
        atom[kAtomValueBytes + thread] = static_cast<uint8_t>(e + kAtomScaleOffset);
      }
    }
  }
  return largest;
}

void from_atoms(const uint8_t* atoms, int64_t n, int64_t k, uint8_t* values, uint8_t* scales) {
  TS_CHECK(fits_atoms(n, k));
  std::memset(values, 0, static_cast<size_t>(n * k / 2));
  for (int64_t strip = 0; strip < n / kAtomRows; ++strip) {
    for (int64_t column_atom = 0; column_atom < k / kAtomColumns; ++column_atom) {
      const uint8_t* atom = atoms + (strip * (k / kAtomColumns) + column_atom) * kAtomBytes;
      for (int thread = 0; thread < 128; ++thread) {
        int64_t row0 = strip * kAtomRows + (thread / 32) * 16;
        for (int word = 0; word < 4; ++word) {
          uint32_t bits;
          std::memcpy(&bits, atom + thread * 16 + word * 4, 4);
          for (int p = 0; p < 4; ++p)
            for (int half = 0; half < 2; ++half) {
              WordSlot slot = word_slot(thread % 32, word, p, half);
              int64_t row = row0 + slot.row, column = column_atom * kAtomColumns + slot.column;
              uint32_t code = take_code((bits >> (16 * half)) & 0xffff, p);
              values[row * (k / 2) + column / 2] |= static_cast<uint8_t>(code << (column % 2 * 4));
            }
        }
        int w = thread / 32, g = thread % 32 / 4, j = thread % 4;
        int64_t row = strip * kAtomRows + w * 16 + 2 * g + j % 2;
        scales[row * (k / 32) + column_atom * 2 + j / 2] =
            static_cast<uint8_t>(atom[kAtomValueBytes + thread] - kAtomScaleOffset);
      }
    }
  }
}

}  // namespace tessera::cuda
