// The harmony parser on any bytes: total, indifferent to how text is cut, and its messages parse to themselves.
#include <cstdio>
#include <cstdlib>

#include "text/harmony_property.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string problem = tessera::check_harmony_stream({reinterpret_cast<const char*>(data), size});
  if (!problem.empty()) {
    std::fprintf(stderr, "%s\n", problem.c_str());
    std::abort();
  }
  return 0;
}
