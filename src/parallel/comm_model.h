// What ranks say to each other for a token, and what a decode step should take on many GPUs: bytes read over bandwidth,
// a latency a layer, time for each token and layer, and collectives of latency plus bytes over bandwidth. Its few
// constants are measured or stated, each with its source. Pure.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "parallel/mesh.h"

namespace tessera {

// A layer's sum over ranks of n bytes takes fused + hops(ranks) * hop + 2 (R-1)/R * n / bandwidth.
struct LinkFigures {
  const char* name;
  double latency_us;       // of a sum of one token's hidden state over two ranks
  double fused_us;         // what that adds to the norm in whose launch it is taken; the same where it has its own
  double hop_us;           // more for every doubling of ranks beyond two
  double gigabytes_per_s;  // one way, a rank
  double dispatch_us;      // of one token a rank to its experts and back; 0: ranks cannot dispatch over this link
  const char* source;
};

// What of a model decides the bytes that its ranks send.
struct TrafficShape {
  double row_bytes = 0;  // of a token's hidden state
  int64_t experts = 0;   // 0: a dense model
  int64_t active = 0;    // experts of a token
  int64_t vocabulary = 0;
  bool dispatch = false;  // experts: tokens travel to them, instead of sums over all ranks
  bool gpus = false;
};

// Bytes that a rank sends, the mean over ranks, routed evenly: for a token of the step, whichever group of ranks has
// it, and for a row of logits. Sums are taken in two steps (each rank sums a slice).
struct TokenTraffic {
  double attention = 0;  // a layer, as the next three
  double experts = 0;    // a sum, or rows to the experts' ranks and back
  double routing = 0;    // of experts: ids and weights, where groups do not know each other's
  double shared = 0;     // of experts: sums that the ranks with the same tokens tell each other
  double rows = 0;       // hidden states to be unembedded, from group to group
  double logits = 0;     // whole rows of logits
  double greedy = 0;     // instead: what choosing the best token takes
  int layer_collectives = 0, logit_collectives = 0;
};
TokenTraffic token_traffic(const Mesh& mesh, const TrafficShape& shape);

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
  double tokens = 1;        // of all ranks
  double weight_bytes = 0;  // read by the busiest rank
  double cache_bytes = 0;   // keys and values, likewise
  struct Sum {
    int ranks = 1;
    double bytes = 0;
  };
  std::vector<Sum> sums;        // a layer's
  bool dispatch = false;        // each layer's tokens travel
  double dispatched_bytes = 0;  // that a rank sends for it, there and back
  int gathers = 0;              // to choose tokens
  double gathered_bytes = 0;    // that a rank hears in them
};

struct StepSeconds {
  double compute = 0, communication = 0;
  double total() const { return compute + communication; }
};

// Of a layer's sum.
double all_reduce_seconds(const LinkFigures& link, int ranks, double bytes);
// Of tokens to their experts and back. REQUIRES: the link can.
double dispatch_seconds(const LinkFigures& link, double sent_bytes);
StepSeconds predict_step(const DeviceFigures& device, const LinkFigures& link, int ranks, const StepDemand& demand);

// Of E experts, how many `tokens` tokens with A each reach, routed evenly.
double experts_reached(int64_t experts, int64_t active, double tokens);
// Of E experts in contiguous groups, how many groups one token with A of them reaches, routed evenly.
double groups_reached(int64_t experts, int64_t groups, int64_t active);

}  // namespace tessera
