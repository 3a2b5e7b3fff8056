// tessera bench load: how long a model takes to be ready.
#pragma once

#include "cli/commands.h"
#include "cli/options.h"

namespace tessera::cli {

struct LoadBenchOptions {
  ModelOptions model;
  int rounds = 3;
  bool scattered = false;
  bool cold = false;
};

void add_options(CLI::App& app, LoadBenchOptions& options);
int bench_load(Invocation& call, const LoadBenchOptions& options);

}  // namespace tessera::cli
