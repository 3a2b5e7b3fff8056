// How long a model takes to load, beside a bare copy of the same bytes from the same files.
#pragma once

#include <cstdint>
#include <string>

#include "tessera/llm.h"

namespace tessera {

// Seconds count from a device that is ready, and include the pinning of memory.
struct LoadSpeed {
  int64_t bytes = 0;          // of tensors in the files
  double bare_seconds = 0;    // a GPU: files -> pinned memory -> device; a CPU: files -> memory
  double disk_seconds = 0;    // of cold files: the fastest plain read found, past the page cache, keeping nothing
  double load_seconds = 0;    // until the weights lie where they are used, in the form that kernels read
  double touch_seconds = 0;   // a CPU: until every page of the weights was read once, load_seconds included
  int64_t device_bytes = 0;   // taken for good; 0 on a CPU
  int64_t device_peak = 0;    // at most, meanwhile
  int64_t staging_bytes = 0;  // of the device, that lanes took meanwhile
  int64_t pinned_bytes = 0;   // of the host, likewise
  int64_t host_peak = 0;      // memory of this process that is no file's page, at most, above the start
  int64_t allocations = 0;    // of device memory for weights
};

struct LoadBench {
  bool preallocate = true;  // false: device memory is taken tensor by tensor
  bool cold = false;        // before each copy and load the system forgets the files
};

// Copies and loads once each; neither keeps anything but what the load writes into `arranged_cache`. Uses the device,
// dtype, dequantize, dense, arranged_cache and threads of the options. Throws what Llm::load throws.
LoadSpeed measure_load(const std::string& model, const LoadOptions& options, const LoadBench& bench);

}  // namespace tessera
