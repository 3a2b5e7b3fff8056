// What a model takes of a GPU's memory, known before anything is read and without that GPU: weights are laid out and a
// runner is built by the code that does it in earnest, over a device context that only counts.
#pragma once

#include "engine/placement.h"
#include "engine/runner.h"

namespace tessera {

struct DeviceForecast {
  int64_t weights = 0;
  int64_t cache = 0;      // of all sequences
  int64_t workspace = 0;  // activations, kernels' scratch, sampling
  int64_t graphs = 0;     // recorded decode steps
  int64_t driver = 0;     // a CUDA context with the code of the kernels and of cuBLASLt
  bool measured = true;   // false: the workspace is a bound, since this build has no kernels to ask

  int64_t fixed() const { return weights + workspace + graphs + driver; }
  int64_t total() const { return fixed() + cache; }
};

// The plan's targets hold the checkpoint's shapes (Checkpoint::bind_shapes) and are of no use afterwards. `kernels` are
// those of a GPU of options.capability; `run.max_context` is what every one of run.max_sequences gets. In a build
// without CUDA the workspace is the CPU's plus kUnmeasuredBytes: all that the products of a step hold at once.
DeviceForecast forecast_device(const WeightPlan& plan, const ArrangeOptions& options, const Model& model,
                               const Kernels& kernels, ThreadPool& pool, const RunnerOptions& run);

// Measured on an H100, driver 580: what a context and its libraries take, and a recorded step of one layer.
inline constexpr int64_t kDriverBytes = int64_t{520} << 20;
inline constexpr int64_t kGraphBytesALayer = int64_t{8} << 10;
// cuBLASLt's workspace, and what is as large.
inline constexpr int64_t kUnmeasuredBytes = int64_t{64} << 20;

// Whether this build has kernels for GPUs.
bool has_cuda_kernels(const Kernels& kernels);

}  // namespace tessera
