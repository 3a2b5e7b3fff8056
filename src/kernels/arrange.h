// Moves weights to a GPU in the form its kernels read best. Builds without CUDA link an empty twin, never called.
#pragma once

#include <vector>

#include "core/arena.h"
#include "core/upload_lane.h"

namespace tessera {

// Room for one piece in a lane's block.
inline constexpr int64_t kUploadBlockBytes = int64_t{5} << 20;

// Bytes that travel together: of a tensor that is copied as it is, or of whole rows of a weight that is re-arranged or
// quantised on the device.
struct UploadPiece {
  const char* values = nullptr;  // on the host
  int64_t value_bytes = 0;
  const char* scales = nullptr;  // of MXFP4 rows that are re-arranged or expanded, else null
  int64_t scale_bytes = 0;
  int64_t n = 0, k = 0;        // of rows that do not travel as they are
  DType dtype = DType::kU8;    // of rows that are quantised
  char* to = nullptr;          // on the device
  float* scales_to = nullptr;  // of rows that are quantised, else null
  bool expands = false;        // MXFP4 to BF16: scale_bytes blocks, whole rows or not

  // Whether it passes through the block on the device.
  bool staged() const { return scales != nullptr || scales_to != nullptr; }
};

// How a weight is held on the GPU. The form depends on the activations that it will meet: the kernels for re-arranged
// MXFP4 and for FP8 rows take BF16 only.
struct ArrangeOptions {
  DType activations = DType::kBF16;
  int capability = 0;   // of the GPU: matrix units that read re-arranged MXFP4 come with 8.0; 0: they are there
  bool fp8 = false;     // plain matrices become FP8 with a scale a row, where the kernels for that take them
  bool expand = false;  // MXFP4 becomes plain BF16
};

// Bytes of device memory that `host` will take, and the scales among them that come from a pool of their own.
struct ArrangedBytes {
  int64_t bytes = 0;
  int64_t pooled_scales = 0;
};
ArrangedBytes cuda_arranged_bytes(const Weight& host, const ArrangeOptions& options);

// Takes the weight's place in the arena, on the GPU, and appends what must travel there. `scales` is the next free
// place of the pool: scales of weights that follow one another do so too.
Weight cuda_arrange(const Weight& host, const ArrangeOptions& options, Arena& arena, float*& scales,
                    std::vector<UploadPiece>& pieces);
Tensor cuda_place(const Tensor& host, Arena& arena, std::vector<UploadPiece>& pieces);

// Enqueues one piece. `block` holds its values and, from the next multiple of 256 bytes on, its scales.
void cuda_send(const UploadPiece& piece, const UploadLane::Block& block, UploadLane& lane);

}  // namespace tessera
