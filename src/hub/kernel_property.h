// What must hold for any bytes in place of a kernel repository's files; run by the fuzz target and by a bounded test.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tessera::hub {

// The first byte chooses the parser, the rest is its input. Aborts (TS_CHECK) when a result could leave a folder, or
// does not survive being written and read again.
void check_kernel_bytes(const uint8_t* data, size_t size);

}  // namespace tessera::hub
