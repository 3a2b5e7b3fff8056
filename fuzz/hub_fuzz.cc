// What a hub server answers: listings, headers, shard indexes, and hub ids.
#include "hub/hub_property.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  tessera::hub::check_server_answer(data, size);
  return 0;
}
