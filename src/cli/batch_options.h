// Flags of the commands that run many requests at once.
#pragma once

#include "cli/options.h"
#include "tessera/batch.h"

namespace tessera::cli {

// --max-requests, --max-batch-tokens, --cache-memory, --swap-memory, --num-blocks, --block-size, --scheduler,
// --no-prefix-cache,
// --prompt-lookup, --deterministic.
void add_batch_options(CLI::App& app, BatchOptions& options);

OrderedJson report_json(const BatchReport& report);

}  // namespace tessera::cli
