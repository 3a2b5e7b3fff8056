#include "engine/device_map.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "core/error.h"

namespace tessera {

namespace {

constexpr const char* kExpected = "expected LAYERS=PLACE,... such as 0-8=gpu,9-35=cpu or *=disk (LAYERS: N, N-M, *)";

std::optional<Place> place_of(std::string_view name) {
  if (name == "gpu" || name == "cuda" || name == "cuda:0" || name == "0") return Place::kDevice;
  if (name == "cpu" || name == "host") return Place::kHost;
  if (name == "disk") return Place::kDisk;
  return std::nullopt;
}

// The whole of `text` as a number.
std::optional<int64_t> number(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || text.empty()) return std::nullopt;
  return value;
}

[[noreturn]] void no_such_layer(const std::string& where, std::string_view layer, int64_t layers) {
  fail(ErrorCode::kInvalidArgument, "{}: there is no layer {}; the model has 0 to {}", where, layer, layers - 1);
}

}  // namespace

const char* place_name(Place place) {
  if (place == Place::kHost) return "cpu";
  return place == Place::kDisk ? "disk" : "gpu";
}

DeviceMap map_automatically(const MapDemand& d) {
  const auto layers = static_cast<int64_t>(d.experts.size());
  DeviceMap map(d.experts.size(), Place::kDevice);
  if (device_bytes_of(map, d) <= d.device_bytes) return map;
  int64_t device = d.device_bytes - d.device_fixed - d.staging, host = d.host_bytes, layer = 0;
  for (; layer < layers && d.experts[static_cast<size_t>(layer)] <= device; ++layer)
    device -= d.experts[static_cast<size_t>(layer)];
  for (bool on_disk = false; layer < layers; ++layer) {
    const int64_t bytes = d.experts[static_cast<size_t>(layer)];
    if (bytes == 0) continue;
    on_disk = on_disk || bytes > host;
    if (!on_disk) host -= bytes;
    map[static_cast<size_t>(layer)] = on_disk ? Place::kDisk : Place::kHost;
  }
  return map;
}

DeviceMap map_cpu_moe(const MapDemand& d, int64_t n) {
  DeviceMap map(d.experts.size(), Place::kDevice);
  for (size_t i = 0; i < map.size() && n > 0; ++i) {
    if (d.experts[i] == 0) continue;
    map[i] = Place::kHost;
    --n;
  }
  return map;
}

DeviceMap parse_device_map(std::string_view text, int64_t layers) {
  const std::string where = fmt::format("--device-map {}", text);
  std::vector<std::optional<Place>> named(static_cast<size_t>(layers));
  Place rest = Place::kDevice;
  while (!text.empty()) {
    const std::string_view entry = text.substr(0, text.find(','));
    text.remove_prefix(std::min(text.size(), entry.size() + 1));
    const size_t equals = entry.find('=');
    if (equals == std::string_view::npos) fail(ErrorCode::kInvalidArgument, "{}: {}", where, kExpected);
    const std::string_view which = entry.substr(0, equals), name = entry.substr(equals + 1);
    const std::optional<Place> place = place_of(name);
    if (!place) fail(ErrorCode::kInvalidArgument, "{}: \"{}\" is not one of gpu, cpu, disk", where, name);
    if (which == "*") {
      rest = *place;
      continue;
    }
    const size_t dash = which.find('-');
    const std::optional<int64_t> first = number(which.substr(0, dash));
    const std::optional<int64_t> last = dash == std::string_view::npos ? first : number(which.substr(dash + 1));
    if (!first || !last) fail(ErrorCode::kInvalidArgument, "{}: {}", where, kExpected);
    if (*first < 0 || *first > *last || *last >= layers) no_such_layer(where, which, layers);
    for (int64_t i = *first; i <= *last; ++i) {
      std::optional<Place>& layer = named[static_cast<size_t>(i)];
      if (layer) fail(ErrorCode::kInvalidArgument, "{}: layer {} is named twice", where, i);
      layer = place;
    }
  }
  DeviceMap map;
  for (const std::optional<Place>& layer : named) map.push_back(layer.value_or(rest));
  return map;
}

DeviceMap read_device_map(const Json& json, int64_t layers, const std::string& where) {
  if (!json.is_object()) fail(ErrorCode::kInvalidArgument, "{}: expected an object of module names to devices", where);
  std::vector<size_t> length(static_cast<size_t>(layers));  // of the name that counts
  DeviceMap map(static_cast<size_t>(layers), Place::kDevice);
  for (const auto& [key, value] : json.items()) {
    const std::string name = value.is_string() ? value.get<std::string>() : value.dump();
    const std::optional<Place> place = place_of(name);
    if (!place) {
      fail(ErrorCode::kUnsupported,
           "{}: \"{}\": device {} is not one of 0, \"cuda\", \"cpu\", \"disk\"; for several "
           "GPUs use --tp",
           where, key, name);
    }
    const int64_t layer = layer_of_weight(key + ".");
    if (layer >= layers) no_such_layer(where, std::to_string(layer), layers);
    const std::string prefix = "model.layers." + std::to_string(layer);
    const bool all = key.empty() || key == "model" || key == "model.layers";
    const bool moves =
        all || (layer >= 0 && (key == prefix || key == prefix + ".mlp" || key == prefix + ".mlp.experts"));
    if (*place == Place::kDevice && !moves) continue;
    if (!moves) {
      fail(ErrorCode::kUnsupported,
           "{}: \"{}\" cannot be on {}: only experts leave the GPU (model.layers.N, or model.layers.N.mlp.experts)",
           where, key, name);
    }
    for (int64_t i = all ? 0 : layer; i < (all ? layers : layer + 1); ++i) {
      const auto at = static_cast<size_t>(i);
      if (key.size() < length[at]) continue;
      length[at] = key.size();
      map[at] = *place;
    }
  }
  return map;
}

int64_t bytes_in(const DeviceMap& map, const MapDemand& d, Place place) {
  int64_t bytes = 0;
  for (size_t i = 0; i < map.size(); ++i) bytes += map[i] == place ? d.experts[i] : 0;
  return bytes;
}

int64_t device_bytes_of(const DeviceMap& map, const MapDemand& d) {
  bool elsewhere = false;
  for (size_t i = 0; i < map.size(); ++i) elsewhere |= map[i] != Place::kDevice && d.experts[i] > 0;
  return d.device_fixed + (elsewhere ? d.staging : 0) + bytes_in(map, d, Place::kDevice);
}

std::string map_text(const DeviceMap& map) {
  std::string text;
  for (size_t i = 0, j = 0; i < map.size(); i = j) {
    for (j = i; j < map.size() && map[j] == map[i];) ++j;
    text += text.empty() ? "" : ",";
    text += j == i + 1 ? fmt::format("{}={}", i, place_name(map[i]))
                       : fmt::format("{}-{}={}", i, j - 1, place_name(map[i]));
  }
  return text;
}

int64_t layer_of_weight(std::string_view name) {
  constexpr std::string_view kMark = "layers.";
  const size_t at = name.find(kMark);
  if (at == std::string_view::npos) return -1;
  name.remove_prefix(at + kMark.size());
  return number(name.substr(0, name.find('.'))).value_or(-1);
}

TokenSeconds predict_token(const TokenDemand& d, const ReadRates& r) {
  auto seconds = [](int64_t bytes, double rate) { return rate > 0 ? static_cast<double>(bytes) / rate : 0.0; };
  return {.device = seconds(d.device_bytes, r.device) + static_cast<double>(d.layers) * r.layer_seconds,
          .host = seconds(d.host_bytes, r.host),
          .disk = seconds(d.disk_bytes, r.disk),
          .handover = static_cast<double>(d.hosted_layers) * r.handover_seconds};
}

}  // namespace tessera
