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

class DeviceSampling {
 public:
  // Throws kOutOfMemory. The context and kernels must outlive this object.
  DeviceSampling(DeviceContext& context, const Kernels& kernels, int64_t max_rows, int64_t vocab_size);
  ~DeviceSampling();
  DeviceSampling(const DeviceSampling&) = delete;

  int64_t workspace_bytes() const;  // that enqueue() needs in the stream
  // Enqueues one choice for each row of logits F32 [R, V], R = rows.size(). The spans are read before it returns.
  // REQUIRES: at most kMaxEdits in all rows.
  static constexpr int64_t kMaxEdits = int64_t{1} << 16;  // 0.8 MB
  void enqueue(const Tensor& logits, std::span<const RowSampling> rows, Stream& stream);
  // Valid once the context was synchronised.
  SampledRows result() const;

 private:
  struct Buffers;  // one set of operands
  SampleArgs arguments(const Buffers& at, int64_t rows) const;
  void send(const Tensor& to, const Tensor& from, int64_t bytes);

  DeviceContext& context_;
  const Kernels& kernels_;
  int64_t max_rows_, vocab_size_;
  std::unique_ptr<Buffers> host_, device_;
  Arena arena_;
  void* pinned_ = nullptr;
};

}  // namespace tessera
