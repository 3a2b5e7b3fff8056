#include "api/hub_layers.h"

#include <filesystem>

#include "core/error.h"
#include "core/log.h"
#include "kernels/hub/attach.h"

namespace tessera {

namespace {

using hub_kernels::HubLayer;

std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> out;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(at, begin), text.size());
    out.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return out;
}

// "RMSNorm=folder,MoE=library.so".
std::vector<HubLayer> layers_of_pairs(const std::string& text, DeviceType device) {
  std::vector<HubLayer> out;
  for (const std::string& pair : split(text, ',')) {
    const size_t equals = pair.find('=');
    const std::string layer = pair.substr(0, equals),
                      source = equals == std::string::npos ? "" : pair.substr(equals + 1);
    if (hub_kernels::find_layer(layer) == nullptr || source.empty()) {
      std::string names;
      for (const hub_kernels::Layer& l : hub_kernels::layers())
        names += (names.empty() ? "" : ", ") + std::string(l.name);
      fail(ErrorCode::kInvalidArgument,
           "--use-kernels {}: expected LAYER=FOLDER, split by commas, with LAYER one of {}; or a mapping.json", text,
           names);
    }
    try {
      out.push_back({.layer = layer, .repo = source, .library = hub_kernels::library_of_folder(source, device)});
    } catch (const Error& e) {
      log::warn("Layer `{}` is not taken from `{}`, the built-in kernel is used: {}", layer, source, e.what());
    }
  }
  return out;
}

}  // namespace

void use_hub_kernels(Kernels& kernels, const std::string& use_kernels, DeviceContext& context) {
  const std::vector<HubLayer> layers = layers_of_pairs(use_kernels, context.device().type);
  hub_kernels::attach(kernels, layers, {.device = context.device(), .device_name = context.info().name});
}

}  // namespace tessera
