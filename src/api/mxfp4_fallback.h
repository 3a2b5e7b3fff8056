// What becomes of a model in MXFP4 on a GPU that has no kernel for it: bf16, if that fits, or a refusal that says what
// would do.
#pragma once

#include <string>

#include "core/device_context.h"
#include "engine/placement.h"
#include "kernels/table.h"

namespace tessera {

struct Mxfp4Fallback {
  std::string device;                       // "NVIDIA ..."
  int capability = 0;                       // of it, major * 10 + minor
  std::string refusal;                      // why no row of the experts' op accepts; completes "refused: ..."
  int64_t mxfp4_bytes = 0, bf16_bytes = 0;  // all weights, the one way and the other
  int64_t free_bytes = 0;                   // of the device
  bool allowed = true;                      // without --no-fallback
};

// The line to log when the weights are expanded. Throws kOutOfMemory when they do not fit so, and kUnsupported when it
// is not allowed, each naming what is required, what was found, the memory both ways, and a card that would do.
std::string expand_mxfp4(const Mxfp4Fallback& f);

// Why no row takes the plan's MXFP4 experts, as they would be held on that GPU; empty: one does, or there are none.
std::string mxfp4_refusal(const WeightPlan& plan, const ArrangeOptions& options, const Kernels& kernels, Device device);

}  // namespace tessera
