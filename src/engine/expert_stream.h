// For steps of many tokens: a layer's experts travel from host memory to a place on the GPU, where the GPU's kernels
// compute. One place serves all layers, since a layer's transfer takes far longer than its computing. Used by the
// context's thread; nothing of it is recorded.
#pragma once

#include <memory>
#include <vector>

#include "core/arena.h"
#include "core/thread_pool.h"
#include "core/upload_lane.h"
#include "engine/placement.h"
#include "kernels/arrange.h"
#include "kernels/table.h"

namespace tessera {

// From how many tokens on: 1.7 GB a layer at 40 GB/s take 42 ms; 16 cores compute 128 tokens of 4 experts each in as
// much.
inline constexpr int64_t kStreamTokens = 128;
// A prompt is read in chunks of so many, since each chunk moves every layer once.
inline constexpr int64_t kStreamChunk = 2048;

class ExpertStream {
 public:
  // Device memory that it takes for layers of at most `layer_bytes`.
  static int64_t device_bytes(int64_t layer_bytes);

  // `layer_bytes`: of the largest layer on the device, biases included. Throws kOutOfMemory. All must outlive it.
  ExpertStream(DeviceContext& context, ThreadPool& pool, const Kernels& kernels, const ArrangeOptions& options,
               ReadBytes read, int64_t layer_bytes);

  // Why it cannot take these experts, whose weights are in host memory; and the workspace that it needs for them.
  Verdict supports(const MoeArgs& a);
  int64_t workspace(const MoeArgs& a);
  // Waits for the device, moves the experts and enqueues their product. Throws what reading them throws.
  void run(const MoeArgs& a, Stream& stream);

 private:
  MoeArgs staged(const MoeArgs& a, std::vector<UploadPiece>& pieces);
  void send(const std::vector<UploadPiece>& pieces);

  DeviceContext& context_;
  ThreadPool& pool_;
  OpTable<MoeArgs> moe_;
  ArrangeOptions options_;
  ReadBytes read_;
  Arena place_;
  std::vector<std::unique_ptr<UploadLane>> lanes_;
};

}  // namespace tessera
