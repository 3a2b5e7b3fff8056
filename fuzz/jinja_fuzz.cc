// Any bytes as a template: an Error or a text, within the limits, twice the same.
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "text/jinja_property.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string problem = tessera::check_template({reinterpret_cast<const char*>(data), size});
  if (!problem.empty()) {
    std::fprintf(stderr, "%s\n", problem.c_str());
    std::abort();
  }
  return 0;
}
