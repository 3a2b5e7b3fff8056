// Moves weights to a GPU in the form its kernels read best. Builds without CUDA link an empty twin, never called.
#pragma once

#include <vector>

#include "core/arena.h"
#include "core/upload_lane.h"

namespace tessera {

// Room for one piece in a lane's block.
inline constexpr int64_t kUploadBlockBytes = int64_t{5} << 20;

// Bytes that travel together: of a tensor that is copied as it is, or of whole rows of an MXFP4 weight that is
// re-arranged on the device.
struct UploadPiece {
  const char* values = nullptr;  // on the host
  int64_t value_bytes = 0;
  const char* scales = nullptr;  // of rows that are re-arranged, else null
  int64_t scale_bytes = 0;
  int64_t n = 0, k = 0;  // likewise
  char* to = nullptr;    // on the device
};

// Bytes of device memory that `host` will take. The form depends on the activations that it will meet: the kernels for
// re-arranged MXFP4 take BF16 only.
int64_t cuda_arranged_bytes(const Weight& host, DType activations);

// Takes the weight's place in the arena, on the GPU, and appends what must travel there.
Weight cuda_arrange(const Weight& host, DType activations, Arena& arena, std::vector<UploadPiece>& pieces);
Tensor cuda_place(const Tensor& host, Arena& arena, std::vector<UploadPiece>& pieces);

// Enqueues one piece. `block` holds its values and, from the next multiple of 256 bytes on, its scales.
void cuda_send(const UploadPiece& piece, const UploadLane::Block& block, UploadLane& lane);

}  // namespace tessera
