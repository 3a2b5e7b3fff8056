// What a decode step should take on many GPUs: bytes read over bandwidth, a latency a layer, time for each token and
// layer, and collectives of latency plus bytes over bandwidth. Its few constants are measured or stated, each with its
// source. Pure.
#pragma once

#include <cstdint>
#include <span>

namespace tessera {

// A sum over ranks of n bytes takes latency + hops(ranks) * hop + 2 (R-1)/R * n / bandwidth.
struct LinkFigures {
  const char* name;
  double latency_us;       // of a sum of one token's hidden state over two ranks
  double hop_us;           // more for every doubling of ranks beyond two
  double gigabytes_per_s;  // one way, a rank
  const char* source;
};

struct DeviceFigures {
  const char* name;
  double gigabytes_per_s;  // of reads
  double layer_us;         // of a decode step, whatever its bytes: launches, waits, small kernels
  // For each token beyond the first and each layer, besides bytes: half on every rank (norms, routing, sums), half
  // split.
  double token_layer_us;
  const char* source;
};

std::span<const LinkFigures> link_figures();
const DeviceFigures& h100_figures();

// One rank's share of a decode step.
struct StepDemand {
  int64_t layers = 0;
  double tokens = 1;
  double weight_bytes = 0;    // read by the busiest rank
  double cache_bytes = 0;     // keys and values, likewise
  double sums = 0;            // over the ranks
  double sum_bytes = 0;       // each
  double gathered_bytes = 0;  // that a rank hears from the others, to choose tokens
};

struct StepSeconds {
  double compute = 0, communication = 0;
  double total() const { return compute + communication; }
};

double all_reduce_seconds(const LinkFigures& link, int ranks, double bytes);
StepSeconds predict_step(const DeviceFigures& device, const LinkFigures& link, int ranks, const StepDemand& demand);

// Of E experts, how many `tokens` tokens with A each reach, routed evenly.
double experts_reached(int64_t experts, int64_t active, double tokens);

}  // namespace tessera
