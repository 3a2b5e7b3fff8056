// Many requests at once: continuous batching over one paged cache.
//
//   std::vector<tessera::BatchRequest> requests = {{.id = "a", .prompt = llm.encode("One")}, ...};
//   for (const tessera::BatchOutput& out : tessera::generate_batch(llm, requests)) std::cout << out.generation.text <<
//   "\n";
//
// The Llm is used by this call alone while it runs; Llm::cancel() ends it after the current step.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "tessera/llm.h"

namespace tessera {

struct BatchRequest {
  std::string id;
  std::vector<int32_t> prompt;
  SamplingParams params;
  int samples = 1;             // answers to the one prompt; sample k is drawn with seed + k
  int priority = 0;            // -100 to 100, higher goes first
  double timeout_seconds = 0;  // 0: none
};

enum class BatchStatus { kPending, kPrefilling, kDecoding, kFinished, kFailed };
const char* batch_status_name(BatchStatus status);  // "pending", ...

// Times are seconds since generate_batch() was called.
struct BatchOutput {
  std::string id;
  int sample = 0;
  BatchStatus status = BatchStatus::kPending;
  std::string error;  // why it failed; the others go on
  Generation generation;
  int64_t cached_tokens = 0;  // of the prompt, taken from the prefix cache
  int64_t preemptions = 0;
  double created_time = 0, started_time = 0, first_token_time = 0, finished_time = 0;
  std::vector<double> timestamps;  // of each token, with record_timestamps
};

// Named as in transformers' ContinuousBatchingConfig where the meaning is the same.
struct BatchOptions {
  int64_t max_requests_per_batch = 32;
  int64_t max_batch_tokens = 512;               // in one step
  int64_t max_context = 0;                      // tokens of one request; 0: the model's, as loaded
  int64_t block_size = 0;                       // tokens in a cache page; 0: 32, fewer for windows under 128
  int64_t num_blocks = 0;                       // cache pages; 0: from cache_memory
  int64_t cache_memory = 0;                     // bytes; 0: enough for all, as far as the memory that is left goes
  int64_t swap_memory = 0;                      // bytes of main memory for requests that must wait for cache pages
  bool allow_block_sharing = true;              // the prefix cache
  std::string scheduler_type = "fifo";          // or "prefill_first"
  int64_t max_queue_size = 4096;                // waiting requests
  int64_t max_queue_tokens = int64_t{1} << 22;  // and the tokens of their prompts
  int64_t prompt_lookup = 0;                    // longest draft of prompt lookup; 0: off
  bool static_batching = false;                 // for comparison: whole batches, one after another
  // Each request gets the same tokens whatever else is in the batch. So it is on a CPU in any case; a GPU uses slower
  // kernels for it. Requests without a seed get a fixed one.
  bool deterministic = false;
  bool record_timestamps = false;
};

struct BatchReport {
  double seconds = 0;
  int64_t requests = 0, failed = 0, cancelled = 0;  // samples
  int64_t prompt_tokens = 0, cached_tokens = 0, completion_tokens = 0;
  int64_t steps = 0, preemptions = 0, swaps = 0;  // swaps: preemptions that kept their work in main memory
  int64_t drafted_tokens = 0, accepted_tokens = 0;
  int64_t cache_bytes = 0, peak_cache_bytes = 0;  // of all pages, and of those held at once
};

// Outputs in the order of the requests, samples in theirs. A request that is refused or fails has status kFailed.
std::vector<BatchOutput> generate_batch(Llm& llm, const std::vector<BatchRequest>& requests,
                                        const BatchOptions& options = {});

// The same, as a stream: `next` is asked for a request whenever there is room, until it has none; `on_output` gets each
// output when it ends, and returns false to cancel the rest (which are then not reported).
BatchReport generate_batch(Llm& llm, const std::function<std::optional<BatchRequest>()>& next,
                           const std::function<bool(BatchOutput&&)>& on_output, const BatchOptions& options = {});

}  // namespace tessera
