// A kernel repository's files: variants' names, metadata.json, lock files, mapping.json, TOML, listings.
#include "hub/kernel_property.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  tessera::hub::check_kernel_bytes(data, size);
  return 0;
}
