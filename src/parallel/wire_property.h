// What must hold for any bytes that a rank receives: shared by a fuzz target and a bounded test.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tessera {

// Reads the bytes as frames, in pieces; what is understood must come out the same when written and read again. Aborts
// when something does not hold.
void check_wire(const uint8_t* data, size_t size);

}  // namespace tessera
