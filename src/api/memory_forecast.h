// What a model will need before any of it is loaded: weights, cache at a context, workspace; and which devices hold
// that.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/json.h"
#include "loading/checkpoint.h"
#include "models/model.h"

namespace tessera {

struct ForecastOptions {
  DType dtype = DType::kBF16;
  std::optional<DType> cache_dtype = std::nullopt;
  bool dequantize = false;
  bool ignore_window = false;
  int threads = 0;
  int64_t context = 0;                 // tokens of one sequence
  std::vector<double> card_gigabytes;  // further devices to compare with
  // On a GPU: everything that such a process takes of its memory, and for all sequences at once.
  bool gpu = false;
  int capability = 90;  // of the GPU, major * 10 + minor
  bool dense_fp8 = false;
  int64_t max_requests = 1;
  int64_t max_batch_tokens = 512;
};

// The workspace is that of the CPU's kernels, measured by a forward pass that computes nothing. {"context",
// "weight_bytes", "cache_bytes", "cache_bytes_per_token", "workspace_bytes", "total_bytes", "devices": [{"device",
// "bytes", "fits", "max_context"}]}: this machine's devices as they are now, then usual cards less what a driver takes.
// With options.gpu the account is engine/device_forecast.h's, and these are there too: "driver_bytes", "graph_bytes",
// "max_requests", "measured"; usual cards are then counted whole.
// The checkpoint may be one of Checkpoint::from_config; its plan's targets are of no use afterwards.
Json forecast_memory(Checkpoint& checkpoint, Model& model, const ForecastOptions& options);

// The smallest usual card, in GB, with room for so many bytes beside its driver; 0: none is so large.
double card_that_holds(int64_t bytes);

}  // namespace tessera
