// Moves a loaded model's weights to a GPU, in the form its kernels read best.
#pragma once

#include "core/arena.h"
#include "core/device_context.h"
#include "parallel/weight_plan.h"

namespace tessera {

// Re-points every target of the plan at device memory and returns the arena that holds it. The host copies are not used
// again. Throws kOutOfMemory before anything was moved.
Arena place_weights(const WeightPlan& plan, DType activations, DeviceContext& context);

}  // namespace tessera
