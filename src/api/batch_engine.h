// A runner and an engine for many requests, over a loaded model's weights. Shared by generate_batch() and the
// benchmarks.
#pragma once

#include "api/llm_impl.h"
#include "tessera/batch.h"

namespace tessera {

struct BatchEngine {
  // Throws kInvalidArgument and kOutOfMemory. The Llm must outlive this object.
  BatchEngine(Llm::Impl& llm, const BatchOptions& options);

  Kernels kernels;  // the model's, or those whose results do not depend on the batch
  Runner runner;
  Engine engine;
};

}  // namespace tessera
