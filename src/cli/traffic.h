// Synthetic and recorded traffic for benchmarks, and what is measured of it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "api/batch_engine.h"
#include "core/json.h"

namespace tessera::cli {

struct TrafficItem {
  std::vector<int32_t> prompt;
  SamplingParams params;
  double arrival = 0;  // seconds after the start
};

struct TrafficOptions {
  int64_t requests = 100;
  int64_t prompt_low = 60, prompt_high = 200;  // uniform
  int64_t output_low = 8, output_high = 512;
  double output_median = 120;  // log-normal within the limits; 0: uniform
  double shared_prefix = 0;    // share of each prompt that all have in common
  double rate = 0;             // Poisson arrivals a second; 0: all at once
  bool honour_eos = false;     // else each answer has the length drawn for it
  uint64_t seed = 1;
};

// Token ids drawn at random, none of them in `avoid`.
std::vector<TrafficItem> synthetic_traffic(const TrafficOptions& options, int64_t vocab_size,
                                           const std::vector<int32_t>& avoid);

// One step, for figures of occupancy over time.
struct StepRecord {
  double time = 0;
  int64_t requests = 0, tokens = 0, waiting = 0, pages_held = 0, pages_cached = 0;
  int64_t output_tokens = 0;  // handed out: not those of a static batch's ended slots
};

struct TrafficResult {
  double seconds = 0;
  double cpu_seconds = 0;  // of all threads: says more than seconds where others use the machine
  int64_t requests = 0, failed = 0;
  int64_t prompt_tokens = 0, cached_tokens = 0, output_tokens = 0;
  double occupancy = 0;  // requests in a step, averaged over time
  int64_t steps = 0, preemptions = 0, swaps = 0, drafted = 0, accepted = 0;
  int64_t cache_bytes = 0, peak_cache_bytes = 0;
  int64_t peak_window_cache_bytes = 0;  // of the layers with a window, whether or not it is ignored
  std::vector<double> ttft, itl, tpot;  // seconds: first token, gaps between tokens, mean gap of each request
  std::vector<StepRecord> records;
};

// Runs the traffic in each of these ways; with concurrency > 0 that many requests are kept in the system, whatever
// their arrival times. Several ways take turns, the one with fewer tokens so far always being next, and each has a
// clock of its own: what else the machine does meanwhile slows all of them alike.
std::vector<TrafficResult> run_traffic(Llm::Impl& llm, const std::vector<BatchOptions>& ways,
                                       const std::vector<TrafficItem>& traffic, int64_t concurrency);

// The value below which a share `p` of the values lie; 0 when there are none.
double percentile(std::vector<double> values, double p);
OrderedJson traffic_json(const TrafficResult& result);

}  // namespace tessera::cli
