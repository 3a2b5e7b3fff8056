#include "cli/hub_model.h"

#include <filesystem>

namespace tessera::cli {

hub::DownloadHooks HubRun::hooks() {
  return {.on_progress =
              [this](const hub::DownloadProgress& p) { progress_.update(p.bytes_done, p.bytes, p.bytes_fetched); },
          .cancelled = [this] { return interrupt_.interrupted(); }};
}

std::string model_folder(const std::string& model, hub::Need need) {
  std::error_code ignored;
  if (std::filesystem::exists(model, ignored) || !hub::parse_hub_id(model)) return model;
  HubRun run(model);
  return hub::locate_model(model, need, run.hooks());
}

}  // namespace tessera::cli
