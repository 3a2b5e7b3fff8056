// Weights on their way to the GPU: MXFP4 experts become atoms where every scale fits, or bf16 where that is asked for;
// all else is copied as it is.
#include "kernels/arrange.h"

#include <algorithm>

#include "kernels/cuda/fp8_rows.h"
#include "kernels/cuda/mxfp4_atoms.h"
#include "kernels/cuda/mxfp4_expand.h"

namespace tessera {

namespace {

constexpr int64_t round_up_256(int64_t bytes) {
  return (bytes + 255) / 256 * 256;
}

bool becomes_fp8(const Weight& w, const ArrangeOptions& o) {
  return o.fp8 && o.activations == DType::kBF16 && w.format == WeightFormat::kPlain && w.experts == 1 &&
         cuda::fits_fp8_rows(w.k) && w.k * dtype_size(w.values.dtype) <= kUploadBlockBytes;
}

bool becomes_bf16(const Weight& w, const ArrangeOptions& o) {
  return o.expand && w.format == WeightFormat::kMxfp4;
}

bool becomes_atoms(const Weight& w, const ArrangeOptions& o) {
  return !o.expand && o.activations == DType::kBF16 && (o.capability == 0 || o.capability >= 80) &&
         w.format == WeightFormat::kMxfp4 && cuda::fits_atoms(w.n, w.k) && w.max_scale <= cuda::kAtomMaxScale;
}

// Strips of atoms that fit a block beside the word for the largest scale.
int64_t rows_of_a_piece(int64_t k) {
  const int64_t strip = cuda::kAtomRows * (k / 2 + k / 32);
  return std::max<int64_t>(1, (kUploadBlockBytes - 1024) / strip) * cuda::kAtomRows;
}

}  // namespace

ArrangedBytes cuda_arranged_bytes(const Weight& host, const ArrangeOptions& options) {
  if (becomes_fp8(host, options)) return {host.n * host.k + 256, host.n * int64_t{sizeof(float)}};
  if (becomes_bf16(host, options)) return {host.experts * host.n * host.k * int64_t{2} + 256};
  if (!becomes_atoms(host, options)) return {host.bytes() + 512};  // each tensor is aligned to 256
  return {cuda::atoms_bytes(host.experts, host.n, host.k) + 256};
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

namespace {

Weight arrange_fp8(const Weight& host, Arena& arena, float*& scales, std::vector<UploadPiece>& pieces) {
  Weight out = host;
  out.format = WeightFormat::kFp8Rows;
  out.values = arena.tensor(DType::kF8E4M3, {host.n, host.k});
  out.scales = {scales, {host.n}, DType::kF32, out.values.device};
  scales += host.n;
  const int64_t row = host.k * dtype_size(host.values.dtype), step = kUploadBlockBytes / row;
  for (int64_t begin = 0; begin < host.n; begin += step) {
    const int64_t n = std::min(step, host.n - begin);
    pieces.push_back({.values = host.values.as<char>() + begin * row,
                      .value_bytes = n * row,
                      .n = n,
                      .k = host.k,
                      .dtype = host.values.dtype,
                      .to = out.values.as<char>() + begin * host.k,
                      .scales_to = out.scales.f32() + begin});
  }
  return out;
}

Weight arrange_bf16(const Weight& host, Arena& arena, std::vector<UploadPiece>& pieces) {
  constexpr int64_t kBlock = 16, kValues = 32;  // bytes of codes; beside them a byte of scale
  constexpr int64_t kStep = (kUploadBlockBytes - 1024) / (kBlock + 1);
  Weight out{.format = WeightFormat::kPlain,
             .values = arena.tensor(DType::kBF16, {host.experts, host.n, host.k}),
             .experts = host.experts,
             .n = host.n,
             .k = host.k};
  const int64_t blocks = host.scales.bytes();
  for (int64_t begin = 0; begin < blocks; begin += kStep) {
    const int64_t count = std::min(kStep, blocks - begin);
    pieces.push_back({.values = host.values.as<char>() + begin * kBlock,
                      .value_bytes = count * kBlock,
                      .scales = host.scales.as<char>() + begin,
                      .scale_bytes = count,
                      .to = out.values.as<char>() + begin * kValues * 2,
                      .expands = true});
  }
  return out;
}

}  // namespace

Weight cuda_arrange(const Weight& host, const ArrangeOptions& options, Arena& arena, float*& scales,
                    std::vector<UploadPiece>& pieces) {
  if (becomes_fp8(host, options)) return arrange_fp8(host, arena, scales, pieces);
  if (becomes_bf16(host, options)) return arrange_bf16(host, arena, pieces);
  Weight out = host;
  if (!becomes_atoms(host, options)) {
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
  if (piece.scales_to != nullptr) {
    lane.send(block.device, block.host, piece.value_bytes);
    const Tensor rows{block.device, {piece.n, piece.k}, piece.dtype, {}};
    return cuda::quantize_fp8_rows(rows, reinterpret_cast<uint8_t*>(piece.to), piece.scales_to, lane.native_stream());
  }
  if (piece.scales == nullptr) return lane.send(piece.to, block.host, piece.value_bytes);
  const int64_t scales_at = round_up_256(piece.value_bytes);
  const int64_t bytes = scales_at + piece.scale_bytes;
  lane.send(block.device, block.host, bytes);
  if (piece.expands) {
    const auto* codes = reinterpret_cast<const uint8_t*>(block.device);
    return cuda::expand_mxfp4(codes, codes + scales_at, piece.scale_bytes, reinterpret_cast<uint16_t*>(piece.to),
                              lane.native_stream());
  }
  Tensor values{block.device, {1, piece.n, piece.k / 32, 16}, DType::kU8, {}};
  Tensor scales{block.device + scales_at, {1, piece.n, piece.k / 32}, DType::kU8, {}};
  Weight rows{.format = WeightFormat::kMxfp4, .values = values, .scales = scales, .n = piece.n, .k = piece.k};
  auto* largest = reinterpret_cast<int*>(block.device + round_up_256(bytes));  // known to fit
  cuda::to_atoms_device(rows, reinterpret_cast<uint8_t*>(piece.to), largest, lane.native_stream());
}

}  // namespace tessera
