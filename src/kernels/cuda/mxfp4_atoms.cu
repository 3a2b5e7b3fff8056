// Device half of mxfp4_atoms.h: the checkpoint's layout to atoms, one block of 128 threads an atom.
#include "kernels/cuda/atom_bits.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/mxfp4_atoms.h"

namespace tessera::cuda {
namespace {

__global__ void to_atoms_kernel(const uint8_t* values, const uint8_t* scales, int64_t n, int64_t k, uint8_t* atoms,
                                int* max_scale) {
  int64_t k_atoms = k / kAtomColumns;
  int64_t atom = blockIdx.x;  // over experts * strips * k_atoms
  int64_t row_strip = atom / k_atoms, column_atom = atom % k_atoms;
  uint8_t* out = atoms + atom * kAtomBytes;
  int thread = threadIdx.x;
  int64_t row0 = row_strip * kAtomRows + thread / 32 * 16;
  uint32_t words[4];
  for (int word = 0; word < 4; ++word) {
    uint32_t bits = 0;
    for (int p = 0; p < 4; ++p) {
      WordSlot slot = word_slot(thread % 32, word, p, 0);  // half 1 is the byte's high nibble
      uint32_t byte = values[(row0 + slot.row) * (k / 2) + (column_atom * kAtomColumns + slot.column) / 2];
      bits |= place_code(byte & 15, p) | place_code(byte >> 4, p) << 16;
    }
    words[word] = bits;
  }
  *reinterpret_cast<uint4*>(out + thread * 16) = make_uint4(words[0], words[1], words[2], words[3]);
  int w = thread / 32, g = thread % 32 / 4, j = thread % 4;
  int64_t row = row_strip * kAtomRows + w * 16 + 2 * g + j % 2;
  int e = scales[row * (k / 32) + column_atom * 2 + j / 2];
  out[kAtomValueBytes + thread] = static_cast<uint8_t>(e + kAtomScaleOffset);
  int warp_max = __reduce_max_sync(0xffffffffu, e);
  if (thread % 32 == 0) atomicMax(max_scale, warp_max);
}

}  // namespace

void to_atoms_device(const Weight& w, uint8_t* atoms, int* max_scale, void* stream) {
  TS_CHECK(w.format == WeightFormat::kMxfp4 && fits_atoms(w.n, w.k));
  int64_t count = w.experts * (w.n / kAtomRows) * (w.k / kAtomColumns);
  to_atoms_kernel<<<static_cast<unsigned>(count), 128, 0, static_cast<cudaStream_t>(stream)>>>(
      w.values.as<uint8_t>(), w.scales.as<uint8_t>(), w.n, w.k, atoms, max_scale);
  check(cudaGetLastError(), "to_atoms_kernel");
}

}  // namespace tessera::cuda
