// Which CUDA this machine's driver runs.
#pragma once

namespace tessera {

// major * 1000 + minor * 10, 13000 for 13.0; 0: no driver, or a build without CUDA. Thread-safe.
int cuda_driver_version();

}  // namespace tessera
