// Bodies of HTTP requests: any bytes are taken, or refused with a well-formed error.
#include <cstdint>
#include <cstdlib>

#include "server/request_property.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (!tessera::server::check_request_body({reinterpret_cast<const char*>(data), size}).empty()) std::abort();
  return 0;
}
