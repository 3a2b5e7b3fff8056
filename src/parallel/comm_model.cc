#include "parallel/comm_model.h"

#include <cmath>

namespace tessera {

namespace {

constexpr LinkFigures kLinks[] = {
    {"NVLink, NCCL", 6.7, 4.0, 255,
     "comm_check in a CUDA graph, two H100s, NCCL 2.28.3: 5.6 KiB in 6.7 us, 22.5 MiB in 99 us"},
    {"NVLink, peer", 2.6, 1.0, 239, "comm_check in a CUDA graph, two H100s: 5.6 KiB in 2.6 us, 22.5 MiB in 101 us"},
    {"InfiniBand 400G", 30.0, 6.0, 45, "assumed: 400 Gb/s a GPU at 90 %, NCCL's latency between hosts"},
};

constexpr DeviceFigures kH100{"H100 80GB HBM3", 3092, 28.4, 0.8,
                              "measured: reads of 8 GiB; the 20b's and the 120b's decode steps less their bytes "
                              "(0.68 ms over 24 layers, 1.03 over 36); with 128 sequences 3.0 and 2.9 ms more "
                              "(0.98 and 0.63 us a token and layer)"};

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
  return (link.latency_us + hops * link.hop_us) * 1e-6 + moved / (link.gigabytes_per_s * 1e9);
}

StepSeconds predict_step(const DeviceFigures& device, const LinkFigures& link, int ranks, const StepDemand& d) {
  StepSeconds s;
  const double reads = (d.weight_bytes + d.cache_bytes) / (device.gigabytes_per_s * 1e9);
  const double per_token = (d.tokens - 1) * device.token_layer_us * (0.5 + 0.5 / ranks);
  s.compute = reads + static_cast<double>(d.layers) * (device.layer_us + per_token) * 1e-6;
  s.communication = d.sums * all_reduce_seconds(link, ranks, d.sum_bytes);
  if (ranks > 1) s.communication += link.latency_us * 1e-6 + d.gathered_bytes / (link.gigabytes_per_s * 1e9);
  return s;
}

double experts_reached(int64_t experts, int64_t active, double tokens) {
  const double missed = 1.0 - static_cast<double>(active) / static_cast<double>(experts);
  return static_cast<double>(experts) * (1.0 - std::pow(missed, tokens));
}

}  // namespace tessera
