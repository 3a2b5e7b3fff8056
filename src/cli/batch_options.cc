#include "cli/batch_options.h"

#include <CLI/CLI.hpp>

namespace tessera::cli {

void add_batch_options(CLI::App& app, BatchOptions& options) {
  constexpr const char* kGroup = "Batching";
  auto add = [&](const char* name, int64_t& target, const char* help, int64_t low) {
    return app.add_option(name, target, help)
        ->check(CLI::Range(low, int64_t{1} << 40))
        ->capture_default_str()
        ->group(kGroup);
  };
  add("--max-requests", options.max_requests_per_batch, "requests that run at once", 1);
  add("--max-batch-tokens", options.max_batch_tokens,
      "tokens in one step: prompts are read in chunks of what decoding leaves", 1);
  app.add_option("--cache-memory", options.cache_memory,
                 "bytes for the cache, such as 2GiB; default: enough, as far as what is left goes")
      ->transform(CLI::AsSizeValue(false))
      ->group(kGroup);
  app.add_option(
         "--swap-memory", options.swap_memory,
         "bytes of main memory in which requests wait for cache pages, such as 4GiB; without it, and when it is "
         "full, their tokens are computed again")
      ->transform(CLI::AsSizeValue(false))
      ->group(kGroup);
  add("--num-blocks", options.num_blocks, "or that many cache pages; 0: from --cache-memory", 0);
  add("--block-size", options.block_size, "tokens in a cache page; 0: 32, fewer for windows under 128", 0);
  app.add_option("--scheduler", options.scheduler_type, "fifo: answers first; prefill_first: prompts first")
      ->check(CLI::IsMember({"fifo", "prefill_first"}))
      ->capture_default_str()
      ->group(kGroup);
  app.add_flag("!--no-prefix-cache", options.allow_block_sharing, "compute every prompt from its beginning")
      ->group(kGroup);
  add("--prompt-lookup", options.prompt_lookup, "guess up to this many tokens from the text so far; 0: off", 0);
  app.add_flag("--deterministic", options.deterministic,
               "each request gets the same tokens whatever else is in the batch; without a seed, seed 0")
      ->group(kGroup);
}

OrderedJson report_json(const BatchReport& r) {
  return {{"seconds", r.seconds},
          {"requests", r.requests},
          {"failed", r.failed},
          {"cancelled", r.cancelled},
          {"prompt_tokens", r.prompt_tokens},
          {"cached_tokens", r.cached_tokens},
          {"completion_tokens", r.completion_tokens},
          {"steps", r.steps},
          {"preemptions", r.preemptions},
          {"swaps", r.swaps},
          {"drafted_tokens", r.drafted_tokens},
          {"accepted_tokens", r.accepted_tokens},
          {"cache_bytes", r.cache_bytes},
          {"peak_cache_bytes", r.peak_cache_bytes}};
}

}  // namespace tessera::cli
