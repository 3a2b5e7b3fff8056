#include "api/hub_layers.h"

#include <algorithm>
#include <filesystem>

#include "core/cuda_driver.h"
#include "core/error.h"
#include "core/log.h"
#include "hub/kernel_mapping.h"
#include "hub/kernel_metadata.h"

namespace tessera {

namespace {

namespace fs = std::filesystem;
using hub_kernels::HubLayer;

hub::SystemTarget target_of(DeviceContext& context) {
  const int cuda = context.device().type == DeviceType::kCuda ? cuda_driver_version() : 0;
  return cuda == 0 ? hub::cpu_target() : hub::cuda_target({cuda / 1000, cuda % 1000 / 10}, context.info().capability);
}

// Its checked files, as a layer to attach.
HubLayer as_layer(const hub::LocalKernel& kernel, const std::string& name) {
  hub::require_standalone(kernel);
  const auto file = std::find_if(kernel.files.begin(), kernel.files.end(),
                                 [&](const hub::KernelFile& f) { return f.name == kernel.library; });
  TS_CHECK(file != kernel.files.end());
  return {.layer = "",
          .repo = kernel.repo,
          .revision = kernel.requested,
          .library = kernel.folder + "/" + kernel.library,
          .sha256 = file->sha256,
          .name = name};
}

HubLayer from_hub(const hub::KernelDependency& request, const std::string& name, const hub::KernelSettings& settings,
                  const hub::SystemTarget& target) {
  return as_layer(hub::get_kernel(settings, request, target), name);
}

// A folder without metadata.json, such as a build's output, says nothing that its library could be held against.
HubLayer from_disk(const std::string& source, DeviceType device, const hub::SystemTarget& target) {
  const std::string library = hub_kernels::library_of_folder(source, device);
  const fs::path folder = fs::path(library).parent_path();
  if (!fs::is_directory(source) || !fs::exists(folder / hub::kMetadataFile))
    return {.layer = "", .repo = source, .revision = "", .library = library, .sha256 = ""};
  HubLayer layer = as_layer(hub::open_local_kernel(source, folder.string(), target), "");
  layer.revision.clear();
  return layer;
}

// Finds the library of each layer; what cannot be had is a warning.
class LayerFinder {
 public:
  LayerFinder(const LoadOptions& options, DeviceContext& context)
      : options_(options), context_(context), device_(context.device().type), info_(context.info()) {}

  void mapping(const hub::KernelMapping& mapping, const std::string& where) {
    for (const hub_kernels::Layer& layer : hub_kernels::layers()) {
      const hub::MappingChoice choice =
          hub::choose_kernel(mapping, layer.name, device_ == DeviceType::kCuda ? "cuda" : "cpu", info_.capability,
                             hub::KernelMode::kInference);
      if (choice.row) {
        const hub::MappingRow& row = *choice.row;
        take(layer.name, row.kernel.text(),
             [&] { return from_hub(row.kernel, row.function, settings(), target_of(context_)); });
      } else {
        log::info("{}: no kernel for layer `{}`: {}", where, layer.name, choice.why);
      }
    }
  }

  // "RMSNorm=SOURCE": a folder, a library, or ORG/NAME[@REVISION][:FUNCTION].
  void pair(const std::string& text) {
    const size_t equals = text.find('=');
    const std::string layer = text.substr(0, equals),
                      source = equals == std::string::npos ? "" : text.substr(equals + 1);
    if (hub_kernels::find_layer(layer) == nullptr || source.empty()) {
      std::string names;
      for (const hub_kernels::Layer& l : hub_kernels::layers())
        names += (names.empty() ? "" : ", ") + std::string(l.name);
      fail(ErrorCode::kInvalidArgument,
           "--use-kernels {}: expected a mapping.json, or LAYER=FOLDER or LAYER=ORG/NAME, split by commas, with LAYER "
           "one of {}",
           text, names);
    }
    if (!fs::exists(source) && !hub::parse_kernel_string(source))
      fail(ErrorCode::kInvalidArgument, "--use-kernels {}: {} is neither there nor ORG/NAME[@REVISION]", text, source);
    take(layer, source, [&] { return find_kernel(source, settings(), context_); });
  }

  std::vector<HubLayer> found;

 private:
  template <class Find>
  void take(const std::string& layer, const std::string& source, Find&& find) {
    try {
      HubLayer kernel = find();
      kernel.layer = layer;
      found.push_back(std::move(kernel));
    } catch (const Error& e) {
      log::warn("Layer `{}` is not taken from `{}`, the built-in kernel is used: {}", layer, source, e.what());
    }
  }

  const hub::KernelSettings& settings() {
    if (!settings_) {
      settings_ = hub::kernel_settings_from_env();
      settings_->trusted_repos = options_.trusted_kernels;
      const std::string lock = (fs::path(options_.use_kernels).parent_path() / hub::kLockFile).string();
      if (fs::path(options_.use_kernels).extension() == ".json" && fs::exists(lock))
        settings_->locks = hub::read_kernel_locks(lock);
    }
    return *settings_;
  }

  const LoadOptions& options_;
  DeviceContext& context_;
  DeviceType device_;
  DeviceInfo info_;
  std::optional<hub::KernelSettings> settings_;
};

}  // namespace

HubLayer find_kernel(const std::string& source, const hub::KernelSettings& settings, DeviceContext& context) {
  const hub::SystemTarget target = target_of(context);
  if (fs::exists(source)) return from_disk(source, context.device().type, target);
  const std::optional<hub::KernelString> named = hub::parse_kernel_string(source);
  if (!named) fail(ErrorCode::kInvalidArgument, "{}: is neither there nor ORG/NAME[@REVISION]", source);
  return from_hub(named->kernel, named->function, settings, target);
}

void use_hub_kernels(Kernels& kernels, const LoadOptions& options, DeviceContext& context) {
  if (const std::string by = hub::kernels_switched_off(); !by.empty()) {
    log::warn("--use-kernels: {}; built-in kernels are used", by);
    return;
  }
  LayerFinder finder(options, context);
  const std::string& text = options.use_kernels;
  if (text == "default") {
    finder.mapping(hub::default_kernel_mapping(), "the usual mapping");
  } else if (fs::path(text).extension() == ".json") {
    finder.mapping(hub::read_kernel_mapping(text), text);
  } else {
    for (size_t begin = 0; begin <= text.size();) {
      const size_t end = std::min(text.find(',', begin), text.size());
      finder.pair(text.substr(begin, end - begin));
      begin = end + 1;
    }
  }
  hub_kernels::attach(kernels, finder.found, {.device = context.device(), .device_name = context.info().name});
}

}  // namespace tessera
