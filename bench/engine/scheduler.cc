// Time of one planning step, with its commits, for many running requests: what the host adds to every decode step.
#include "engine/scheduler.h"

#include <benchmark/benchmark.h>

#include <numeric>

namespace {

using namespace tessera;

// range(0) requests decode, each with about 1,000 tokens, over a gpt-oss-like pair of groups.
void decode_step(benchmark::State& state) {
  const int64_t requests = state.range(0), page_size = 32;
  PagedCache cache({.windows = {128, 0}, .page_size = page_size, .pages = static_cast<int32_t>(requests * 80)});
  Scheduler scheduler(
      cache, {.max_requests = requests, .max_batch_tokens = 8192, .max_logit_rows = 8192, .max_context = 1 << 20});
  std::vector<std::unique_ptr<Job>> jobs;
  for (int64_t i = 0; i < requests; ++i) {
    jobs.push_back(std::make_unique<Job>());
    Job& job = *jobs.back();
    job.tokens.resize(900);
    std::iota(job.tokens.begin(), job.tokens.end(), static_cast<int32_t>(1000 * i));
    job.prompt_length = 900;
    if (scheduler.submit(job, 0) != Submitted::kAccepted) state.SkipWithError("refused");
  }
  auto step = [&] {
    const StepPlan& plan = scheduler.plan(0);
    for (const StepItem& item : plan.items) {
      scheduler.commit(item);
      if (item.sample) item.job->tokens.push_back(7);
    }
    return static_cast<int64_t>(plan.items.size());
  };
  while (scheduler.waiting() > 0) step();
  for (int i = 0; i < 8; ++i) step();
  int64_t items = 0;
  for (auto _ : state) {
    items = step();
    if (jobs[0]->tokens.size() < 1500) continue;
    state.PauseTiming();  // back to shorter requests, so that the pages suffice however long this runs
    for (auto& job : jobs) {
      scheduler.remove(*job);
      job->tokens.resize(900);
      (void)scheduler.submit(*job, 0);
    }
    while (scheduler.waiting() > 0) step();
    for (int i = 0; i < 8; ++i) step();
    state.ResumeTiming();
  }
  if (items != requests) state.SkipWithError("not all requests are in the step");
  state.counters["requests"] = static_cast<double>(requests);
}
BENCHMARK(decode_step)->Arg(32)->Arg(256)->Arg(1000)->Unit(benchmark::kMicrosecond);

}  // namespace

BENCHMARK_MAIN();
