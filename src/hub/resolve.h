// From what a user gives as MODEL to a folder on this machine. The one place that knows both forms.
#pragma once

#include <optional>
#include <string>

#include "hub/download.h"
#include "hub/hub_id.h"
#include "hub/settings.h"

namespace tessera::hub {

enum class Need {
  kModel,   // everything a model is run with
  kConfig,  // config.json at least
};

// The snapshot of the cache that has all that is needed, without asking the network; nullopt when there is none. A
// branch or tag is what it was when last downloaded.
std::optional<std::string> find_in_cache(const HubSettings& settings, const HubId& id, Need need);

// The snapshot's folder: from the cache when that has all, otherwise downloaded. Throws as download_snapshot, and
// kNotFound when offline and absent.
std::string find_or_download(const HubSettings& settings, const HubId& id, Need need, const DownloadHooks& hooks = {});

// Something on this disk (a folder, a file) is returned as it is, and so is what is no hub id: opening it says what is
// wrong. A hub id goes through find_or_download with settings_from_env().
std::string locate_model(const std::string& model, Need need, const DownloadHooks& hooks = {});

}  // namespace tessera::hub
