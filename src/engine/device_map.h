// Where the experts of each layer are kept: on the device, in host memory or on disk. Almost all bytes of a mixture of
// experts are theirs, so nothing else moves. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"

namespace tessera {

enum class Place : uint8_t { kDevice, kHost, kDisk };
const char* place_name(Place place);  // "gpu", "cpu", "disk"

using DeviceMap = std::vector<Place>;  // one a layer

// Bytes that are needed and that there are.
struct MapDemand {
  std::vector<int64_t> experts;  // of each layer; 0: it has none
  int64_t device_fixed = 0;      // everything else on the device, cache included
  int64_t staging = 0;           // of the device as soon as a layer's experts are elsewhere
  int64_t device_bytes = 0;
  int64_t host_bytes = 0;
};

// Layers in their order, on the device until it is full, then in host memory, then on disk. What does not fit even
// without experts is for the caller to refuse (device_bytes_of).
DeviceMap map_automatically(const MapDemand& demand);
// The experts of the first n layers that have some in host memory, as llama.cpp's --n-cpu-moe.
DeviceMap map_cpu_moe(const MapDemand& demand, int64_t n);
// LAYERS=PLACE,...: LAYERS are N, N-M or * (all not named), PLACE is gpu, cpu or disk; what is not named is on the gpu.
// Throws kInvalidArgument.
DeviceMap parse_device_map(std::string_view text, int64_t layers);
// A device_map of Hugging Face accelerate: module names to 0, "cuda", "cpu" or "disk"; the longest name that matches
// counts, and of a layer its experts move. `where` opens every message. Throws kInvalidArgument, kUnsupported.
DeviceMap read_device_map(const Json& map, int64_t layers, const std::string& where);

int64_t bytes_in(const DeviceMap& map, const MapDemand& demand, Place place);  // of experts
// All that the device must hold.
int64_t device_bytes_of(const DeviceMap& map, const MapDemand& demand);
// "0-8=gpu,9-35=cpu".
std::string map_text(const DeviceMap& map);

// "model.layers.7.mlp.experts.gate_up_proj" as 7; -1 outside of layers.
int64_t layer_of_weight(std::string_view name);

// What a token reads and how fast that is.
struct TokenDemand {
  int64_t device_bytes = 0, host_bytes = 0, disk_bytes = 0;  // weights of one token's step, by place
  int64_t layers = 0, hosted_layers = 0;
};
struct ReadRates {
  double device = 0, host = 0, disk = 0;  // bytes a second
  double layer_seconds = 0;               // of the device, whatever its bytes
  double handover_seconds = 0;            // to the host and back
};
struct TokenSeconds {
  double device = 0, host = 0, disk = 0, handover = 0;
  double total() const { return device + host + disk + handover; }
};
TokenSeconds predict_token(const TokenDemand& demand, const ReadRates& rates);

// Two copies of 6 KB, a host node of a graph and a wake-up, estimated.
inline constexpr double kHandoverSeconds = 25e-6;

}  // namespace tessera
