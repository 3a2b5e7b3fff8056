// Puts hub kernels into the choice table, in front of the built-in rows of their op. A row first tries its kernel on
// each kind of problem it is asked about (kernels/hub/trial.h), and refuses what failed; the built-in rows then serve.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "kernels/hub/trial.h"
#include "kernels/table.h"

namespace tessera::hub_kernels {

// One layer, and the library that shall compute it.
struct HubLayer {
  std::string layer;     // of layers()
  std::string repo;      // ORG/NAME, or the folder
  std::string revision;  // empty for a folder
  std::string library;   // file
  std::string sha256;    // empty: not known
  std::string name{};    // the kernel's own name for the layer or function; empty: the layer's
};

struct AttachOptions {
  Device device;
  std::string device_name;  // what trials are remembered by
  double trial_timeout_s = 120;
  std::string checker{};        // empty: checker_program()
  std::string memory_folder{};  // empty: the default
};

// What became of a layer: one line for people.
struct Attached {
  std::string layer;
  bool used = false;
  std::string line;  // "Using layer `RMSNorm` from repo `org/name` (revision: 1a2b3c)", or why not
};

// Never throws for what a kernel is: a layer that cannot be attached keeps its built-in rows. Logs each line: INFO when
// used, a warning when not.
std::vector<Attached> attach(Kernels& kernels, std::span<const HubLayer> layers, const AttachOptions& options);

// The one library of a variant's folder, or of a kernel repository's best local variant under build/; `path` may be the
// library itself. Throws kNotFound, kUnsupported.
std::string library_of_folder(const std::string& path, DeviceType device);

}  // namespace tessera::hub_kernels
