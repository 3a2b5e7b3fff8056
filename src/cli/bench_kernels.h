// tessera bench kernels: tokens a second with and without kernels from the hub, over batch sizes.
#pragma once

#include "cli/batch_options.h"
#include "cli/commands.h"

namespace tessera::cli {

struct KernelBenchOptions {
  ModelOptions model;
  BatchOptions batch;
  std::string with_hub;  // as --use-kernels; "own": this program's kernels, as `kernels export` writes them
  std::vector<int64_t> sizes = {1, 2, 4, 8, 16, 32, 64, 128, 256};
  int64_t prompt_tokens = 32, output_tokens = 128;
  int rounds = 2;
  std::string csv, svg;
};

void add_options(CLI::App& app, KernelBenchOptions& options);
int bench_kernels(Invocation& call, KernelBenchOptions& options);

}  // namespace tessera::cli
