// Any bytes as a config.json: quantization, model, weight rows, list of tensors.
#include <cstdio>
#include <cstdlib>

#include "config_property.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string problem = tessera::check_config({reinterpret_cast<const char*>(data), size});
  if (!problem.empty()) {
    std::fprintf(stderr, "%s\n", problem.c_str());
    std::abort();
  }
  return 0;
}
