// What a model will need before any of it is loaded: weights, cache at a context, workspace; and which devices hold
// that.
#pragma once

#include <string>
#include <vector>

#include "core/json.h"
#include "loading/checkpoint.h"
#include "models/model.h"

namespace tessera {

struct ForecastOptions {
  DType dtype = DType::kBF16;
  bool dequantize = false;
  bool ignore_window = false;
  int threads = 0;
  int64_t context = 0;                 // tokens of one sequence
  std::vector<double> card_gigabytes;  // further devices to compare with
};

// The workspace is that of the CPU's kernels, measured by a forward pass that computes nothing. {"context",
// "weight_bytes", "cache_bytes", "cache_bytes_per_token", "workspace_bytes", "total_bytes", "devices": [{"device",
// "bytes", "fits", "max_context"}]}: this machine's devices as they are now, then usual cards less what a driver takes.
// The checkpoint may be one of Checkpoint::from_config; its plan's targets are of no use afterwards.
Json forecast_memory(Checkpoint& checkpoint, Model& model, const ForecastOptions& options);

}  // namespace tessera
