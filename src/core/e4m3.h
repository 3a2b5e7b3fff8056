// OCP E4M3, the 8-bit float of caches and weights: bias 7, subnormals, no infinities; 0x7f and 0xff are NaN.
#pragma once

#include <cstdint>

namespace tessera {

float e4m3_to_float(uint8_t v);
// To nearest, ties to even. What lies beyond 448 becomes 448.
uint8_t float_to_e4m3(float f);

}  // namespace tessera
