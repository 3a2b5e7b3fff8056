// What the commands need of the hub: a run with a progress bar that Ctrl-C stops, and MODEL as a folder.
#pragma once

#include <string>

#include "cli/byte_progress.h"
#include "cli/interrupt.h"
#include "hub/resolve.h"

namespace tessera::cli {

// While it lives, Ctrl-C asks the download to stop; a second one ends the program. What has come is kept either way.
class HubRun {
 public:
  explicit HubRun(const std::string& what) : progress_(what), interrupt_(nullptr, SecondInterrupt::kEndsProgram) {}
  hub::DownloadHooks hooks();

 private:
  ByteProgress progress_;
  InterruptScope interrupt_;
};

// `model` when that is on this disk or no hub id; otherwise its folder in the hub's cache, downloaded when it is not
// there.
std::string model_folder(const std::string& model, hub::Need need = hub::Need::kModel);

}  // namespace tessera::cli
