// Model folders rewritten in another weight format: bf16 experts to MXFP4 and back. Everything that is no expert weight
// is copied unchanged: other tensors, tokenizer, templates, licence; config.json gains or loses its
// quantization_config.
#pragma once

#include <functional>
#include <string>

#include "core/thread_pool.h"
#include "loading/checkpoint.h"

namespace tessera {

struct ConvertSettings {
  int64_t max_shard_bytes = 5'000'000'000;
  std::function<void(int64_t done, int64_t total)> progress;  // bytes read; called on the caller's thread
};

struct ConvertResult {
  int64_t converted = 0;  // weights, a blocks and scales pair counting as one
  int64_t bytes_in = 0;
  int64_t bytes_out = 0;
};

// Writes `in` to the folder `out`, which must be absent or empty, with every quantizable row of the plan as MXFP4, by
// transformers' rule and byte for byte as it does. The plan is that of the model in `in`; its targets are not touched.
// After an error nothing is left at `out`. Throws kInvalidArgument (already MXFP4, a plan without quantizable rows, a
// weight that is not finite, `out` not empty), kCorrupt (tensors do not fit the plan), kUnsupported (a width that is no
// multiple of 32), kIo.
ConvertResult quantize_checkpoint(const Checkpoint& in, const WeightPlan& plan, const std::string& out,
                                  const ConvertSettings& settings, ThreadPool& pool);

// The reverse: MXFP4 rows become BF16 [E, K, N] with the values they had (exact).
ConvertResult dequantize_checkpoint(const Checkpoint& in, const WeightPlan& plan, const std::string& out,
                                    const ConvertSettings& settings, ThreadPool& pool);

}  // namespace tessera
