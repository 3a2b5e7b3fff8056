// What must hold for any bytes a server sends; run by the fuzz target and by a bounded test.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tessera::hub {

// The first byte chooses the parser, the rest is its input. Aborts (TS_CHECK) when a result could leave the cache.
void check_server_answer(const uint8_t* data, size_t size);

}  // namespace tessera::hub
