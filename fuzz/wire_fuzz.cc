// Bytes that ranks exchange over sockets.
#include "parallel/wire_property.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  tessera::check_wire(data, size);
  return 0;
}
