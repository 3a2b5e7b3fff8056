#include "parallel/comm_model.h"

#include <algorithm>
#include <cmath>

namespace tessera {

namespace {

constexpr LinkFigures kLinks[] = {
    {"NVLink, NCCL", 6.7, 6.7, 4.0, 255, 0,
     "comm_check in a CUDA graph, two H100s, NCCL 2.28.3: 5.6 KiB in 6.7 us, 22.5 MiB in 99 us"},
    {"NVLink, peer", 2.4, 0.8, 1.0, 239, 7.9,
     "comm_check in a CUDA graph, two H100s: 5.6 KiB in 2.4 us, with residual and norm in 3.0 where those alone take "
     "2.2; 22.5 MiB in 101 us; a token a rank to its experts in 4.2 us and back in 3.7, 32 in 5.1 and 4.4"},
    {"InfiniBand 400G", 30.0, 30.0, 6.0, 45, 0, "assumed: 400 Gb/s a GPU at 90 %, NCCL's latency between hosts"},
};

constexpr DeviceFigures kH100{"H100 80GB HBM3", 3092, 23.6, 0.64,
                              "measured: reads of 8 GiB; the 20b's and the 120b's decode steps less their bytes "
                              "(0.57 ms over 24 layers, 0.85 over 36); with 128 sequences 1.8 and 3.1 ms more "
                              "(0.60 and 0.67 us a token and layer)"};

}  // namespace

std::span<const LinkFigures> link_figures() {
  return kLinks;
}
const DeviceFigures& h100_figures() {
  return kH100;
}

double all_reduce_seconds(const LinkFigures& link, int ranks, double bytes) {
  if (ranks < 2) return 0;
  const double hops = std::ceil(std::log2(static_cast<double>(ranks))) - 1;
  const double moved = 2.0 * (ranks - 1) / ranks * bytes;
  return (link.fused_us + hops * link.hop_us) * 1e-6 + moved / (link.gigabytes_per_s * 1e9);
}

double dispatch_seconds(const LinkFigures& link, double sent_bytes) {
  // Packets are half data, but travel faster than the link's figure, which is of sums in two steps. Fitted to 128
  // tokens a rank, 17.3 us there and back (in halves with flags); 64 took 11.3.
  constexpr double kPackets = 1.5;
  return link.dispatch_us * 1e-6 + kPackets * sent_bytes / (link.gigabytes_per_s * 1e9);
}

StepSeconds predict_step(const DeviceFigures& device, const LinkFigures& link, int ranks, const StepDemand& d) {
  StepSeconds s;
  const double reads = (d.weight_bytes + d.cache_bytes) / (device.gigabytes_per_s * 1e9);
  const double per_token = (d.tokens - 1) * device.token_layer_us * (0.5 + 0.5 / ranks);
  const auto layers = static_cast<double>(d.layers);
  s.compute = reads + layers * (device.layer_us + per_token) * 1e-6;
  for (const StepDemand::Sum& sum : d.sums) s.communication += layers * all_reduce_seconds(link, sum.ranks, sum.bytes);
  if (d.dispatch) s.communication += layers * dispatch_seconds(link, d.dispatched_bytes);
  s.communication += d.gathers * link.latency_us * 1e-6 + d.gathered_bytes / (link.gigabytes_per_s * 1e9);
  return s;
}

double experts_reached(int64_t experts, int64_t active, double tokens) {
  const double missed = 1.0 - static_cast<double>(active) / static_cast<double>(experts);
  return static_cast<double>(experts) * (1.0 - std::pow(missed, tokens));
}

double groups_reached(int64_t experts, int64_t groups, int64_t active) {
  double reached = 0;
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t held = share(experts, groups, g).count;
    double missed = 1;
    for (int64_t i = 0; i < active; ++i)
      missed *= static_cast<double>(std::max<int64_t>(experts - held - i, 0)) / static_cast<double>(experts - i);
    reached += 1 - missed;
  }
  return reached;
}

namespace {

// Bytes that a rank sends for one row to be sampled on GPUs: a best token and a sum of weights of each 4096 columns.
double told_to_choose(int64_t vocabulary, int ranks) {
  return 16 * std::ceil(static_cast<double>(vocabulary) / ranks / 4096) * (ranks - 1);
}

}  // namespace

TokenTraffic token_traffic(const Mesh& mesh, const TrafficShape& m) {
  const double r = mesh.ranks(), t = mesh.tensor, row = m.row_bytes;
  const double groups = mesh.split_tokens ? mesh.replicas() : 1, sharing = r / groups;
  auto sum = [&](double over) { return 2 * (over - 1) / over * row; };
  TokenTraffic out{.attention = sum(t) / groups};
  const bool dispatch = m.dispatch && m.experts > 0 && mesh.ranks() > 1;
  if (!dispatch) {
    out.experts = m.experts > 0 ? sum(r) : sum(t) / groups;
    out.layer_collectives = (t > 1) + ((m.experts > 0 ? r : t) > 1);
  } else {
    const double reached = groups_reached(m.experts, mesh.expert, m.active) * mesh.inner();
    // On GPUs the answers go to every rank that has the token; on CPUs to its home, which tells the others.
    const double there = reached * (m.gpus ? (r - sharing) / r : (r - 1) / r);
    const double back = reached * (m.gpus ? sharing : 1) * (r - 1) / r;
    out.experts = (there + back) * row / r;
    out.routing = (groups - 1) / groups * 8 * static_cast<double>(m.active);
    out.shared = m.gpus ? 0 : (sharing - 1) / r * row;
    out.layer_collectives = (t > 1) + (m.gpus ? 2 : 2 + 2 * (groups > 1) + (sharing > 1));
  }
  out.rows = (groups - 1) / groups * row;
  const auto vocabulary = static_cast<double>(m.vocabulary);
  out.logits = vocabulary / r * 4 * (r - 1);
  out.greedy = m.gpus ? told_to_choose(m.vocabulary, mesh.ranks()) : 8 * (r - 1);
  out.logit_collectives = (groups > 1) + (r > 1);
  return out;
}

}  // namespace tessera
