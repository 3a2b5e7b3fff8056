// Moves a loaded model's weights to a GPU, in the form its kernels read best: many threads read pieces of the files
// into pinned blocks, from where they travel while the next ones are read and the last ones are re-arranged.
#pragma once

#include <functional>

#include "core/arena.h"
#include "core/thread_pool.h"
#include "kernels/arrange.h"
#include "loading/load_progress.h"
#include "parallel/weight_plan.h"

namespace tessera {

// Copies bytes that a row's target points at; see Checkpoint::read.
using ReadBytes = std::function<void(const void* source, int64_t bytes, char* to)>;

struct PlacementReport {
  int64_t bytes = 0;          // read
  int64_t device_bytes = 0;   // taken for good
  int64_t staging_bytes = 0;  // of device memory, taken meanwhile
  int64_t pinned_bytes = 0;   // of host memory, taken meanwhile
  double seconds = 0;
};

// How many lanes carry weights that take `device_bytes` in the end. Each has two pinned blocks and, when `staged`, as
// much device memory: together at most 1.5 % of device_bytes, or one lane's 10 MiB where that is more.
int64_t count_lanes(int64_t threads, int64_t device_bytes, bool staged);

// Whether a row is of the experts of a layer: what may stay elsewhere than on the device.
bool is_layers_expert(const WeightRow& row);
// Tells the loaded weights whether they stay in host memory, as their rows say (WeightRow::on_host).
void mark_hosted(const WeightPlan& plan);

// Re-points the plan's targets at device memory, but for rows that stay on the host, and returns the arena that holds
// it. The host copies are not used again. With `preallocate` (always, but to compare) the arena is one block. Throws
// kOutOfMemory before anything was moved, and what `read` and `on_progress` throw; the latter is told the bytes read.
Arena place_weights(const WeightPlan& plan, const ArrangeOptions& options, DeviceContext& context, ThreadPool& pool,
                    const ReadBytes& read, PlacementReport* report = nullptr, bool preallocate = true,
                    const LoadProgressCallback& on_progress = {});

// The same with nothing behind it: targets get the shapes and forms that they would have on the GPU, at addresses that
// must not be touched. Takes MXFP4's scales to fit and F32 vectors to be narrow ones. Returns device_bytes. REQUIRES: a
// build with CUDA, no GPU.
int64_t lay_out_weights(const WeightPlan& plan, const ArrangeOptions& options, Device device);

}  // namespace tessera
