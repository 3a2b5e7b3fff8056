// The sample op's operands on a GPU and in pinned host memory: what the host knows of a step's rows goes over while the
// model computes, and only the chosen tokens come back. All memory is taken in the constructor. Used by one thread.
#pragma once

#include <memory>
#include <span>

#include "core/arena.h"
#include "kernels/table.h"

namespace tessera {

// How one row of logits is sampled. settings.mask is set by DeviceSampling.
struct RowSampling {
  SampleSettings settings;
  std::span<const LogitEdit> edits;
  std::span<const uint32_t> mask;  // ceil(V / 32) words; empty: every token is allowed
};

// Of the rows in order; see SampleArgs.
struct SampledRows {
  const int32_t* ids = nullptr;
  const float* logprobs = nullptr;
  const int32_t* top_ids = nullptr;  // [R, kMaxSampleLogprobs]
  const float* top_logprobs = nullptr;
};

// The columns of the logits that this rank computes, where ranks split the vocabulary.
struct LogitColumns {
  Communicator* over = nullptr;
  int64_t first = 0, width = 0;
  int64_t widest = 0;  // width of the widest rank's
};

class DeviceSampling {
 public:
  // Throws kOutOfMemory. The context and kernels must outlive this object.
  DeviceSampling(DeviceContext& context, const Kernels& kernels, int64_t max_rows, int64_t vocab_size,
                 const LogitColumns& columns = {});
  ~DeviceSampling();
  DeviceSampling(const DeviceSampling&) = delete;

  int64_t workspace_bytes() const;  // that enqueue() needs in the stream
  // Enqueues one choice for each row of logits F32 [R, V], R = rows.size(). The spans are read before it returns. What
  // is on its way between host and device lies in one of two places, `turn` 0 or 1. REQUIRES: at most kMaxEdits in all
  // rows; what the turn held before is done and was read.
  static constexpr int64_t kMaxEdits = int64_t{1} << 16;  // 0.8 MB
  void enqueue(const Tensor& logits, std::span<const RowSampling> rows, int turn, Stream& stream);
  // The same from each rank's columns F32 [R, W], R = settings.size(), for rows without edits, masks, log-probabilities
  // and cuts. Every rank calls it, with the same settings.
  void enqueue_parts(const Tensor& logits, std::span<const SampleSettings> settings, int turn, Stream& stream);
  static bool samples_parts(const SampleSettings& s) {
    return s.logprobs < 0 && (s.temperature == 0 || (s.top_p >= 1 && s.top_k <= 0));
  }
  // Valid once the call of that turn is done.
  SampledRows result(int turn) const;
  // The last call's choices on the device, I32 [R].
  const Tensor& ids() const { return ids_; }

 private:
  struct Buffers;  // one set of operands
  SampleArgs arguments(const Buffers& at, int64_t rows) const;
  void send(const Tensor& to, const Tensor& from, int64_t bytes);

  DeviceContext& context_;
  const Kernels& kernels_;
  SamplePartsArgs part_arguments(const SampleArgs& sample) const;
  int64_t max_rows_, vocab_size_;
  LogitColumns columns_;
  std::unique_ptr<Buffers> host_[2], device_;
  Tensor ids_;
  Arena arena_;
  void* pinned_ = nullptr;
};

}  // namespace tessera
