// Weights on their way to the GPU: MXFP4 experts become atoms where every scale fits, all else is copied as it is.
#include "kernels/arrange.h"

#include <algorithm>

#include "kernels/cuda/mxfp4_atoms.h"

namespace tessera {

namespace {

constexpr int64_t round_up_256(int64_t bytes) {
  return (bytes + 255) / 256 * 256;
}

bool becomes_atoms(const Weight& w, DType activations) {
  return activations == DType::kBF16 && w.format == WeightFormat::kMxfp4 && cuda::fits_atoms(w.n, w.k) &&
         w.max_scale <= cuda::kAtomMaxScale;
}

// Strips of atoms that fit a block beside the word for the largest scale.
int64_t rows_of_a_piece(int64_t k) {
  const int64_t strip = cuda::kAtomRows * (k / 2 + k / 32);
  return std::max<int64_t>(1, (kUploadBlockBytes - 1024) / strip) * cuda::kAtomRows;
}

}  // namespace

int64_t cuda_arranged_bytes(const Weight& host, DType activations) {
  if (!becomes_atoms(host, activations)) return host.bytes() + 512;  // each tensor is aligned to 256
  return cuda::atoms_bytes(host.experts, host.n, host.k) + 256;
}

Tensor cuda_place(const Tensor& host, Arena& arena, std::vector<UploadPiece>& pieces) {
  Tensor out = arena.tensor(host.dtype, host.shape);
  for (int64_t begin = 0; begin < host.bytes(); begin += kUploadBlockBytes) {
    pieces.push_back({.values = host.as<char>() + begin,
                      .value_bytes = std::min(kUploadBlockBytes, host.bytes() - begin),
                      .to = out.as<char>() + begin});
  }
  return out;
}

Weight cuda_arrange(const Weight& host, DType activations, Arena& arena, std::vector<UploadPiece>& pieces) {
  Weight out = host;
  if (!becomes_atoms(host, activations)) {
    out.values = cuda_place(host.values, arena, pieces);
    if (host.scales.defined()) out.scales = cuda_place(host.scales, arena, pieces);
    return out;
  }
  out.format = WeightFormat::kMxfp4Atoms;
  out.scales = {};
  out.values =
      arena.tensor(DType::kU8, {host.experts, host.n / cuda::kAtomRows, host.k / cuda::kAtomColumns, cuda::kAtomBytes});
  const int64_t step = rows_of_a_piece(host.k), rows = host.experts * host.n;  // an expert's rows are whole atoms
  for (int64_t begin = 0; begin < rows; begin += step) {
    const int64_t n = std::min(step, rows - begin);
    pieces.push_back({.values = host.values.as<char>() + begin * (host.k / 2),
                      .value_bytes = n * (host.k / 2),
                      .scales = host.scales.as<char>() + begin * (host.k / 32),
                      .scale_bytes = n * (host.k / 32),
                      .n = n,
                      .k = host.k,
                      .to = out.values.as<char>() + cuda::atoms_bytes(1, begin, host.k)});
  }
  return out;
}

void cuda_send(const UploadPiece& piece, const UploadLane::Block& block, UploadLane& lane) {
  if (piece.scales == nullptr) return lane.send(piece.to, block.host, piece.value_bytes);
  const int64_t scales_at = round_up_256(piece.value_bytes);
  const int64_t bytes = scales_at + piece.scale_bytes;
  lane.send(block.device, block.host, bytes);
  Tensor values{block.device, {1, piece.n, piece.k / 32, 16}, DType::kU8, {}};
  Tensor scales{block.device + scales_at, {1, piece.n, piece.k / 32}, DType::kU8, {}};
  Weight rows{.format = WeightFormat::kMxfp4, .values = values, .scales = scales, .n = piece.n, .k = piece.k};
  auto* largest = reinterpret_cast<int*>(block.device + round_up_256(bytes));  // known to fit
  cuda::to_atoms_device(rows, reinterpret_cast<uint8_t*>(piece.to), largest, lane.native_stream());
}

}  // namespace tessera
