// MXFP4 blocks to BF16 on the device, while weights arrive.
#pragma once

#include <cstdint>

namespace tessera::cuda {

// out[32 i + j] = value j of block i: the bits that mxfp4_dequantize_row (quant/mxfp4.h) gives, scale 255 apart, which
// loading refuses. Everything is device memory in the checkpoint's layout: 16 bytes of codes a block, one scale.
// `codes` is 4-byte aligned, `out` 16. In stream order.
void expand_mxfp4(const uint8_t* codes, const uint8_t* scales, int64_t blocks, uint16_t* out, void* stream);

}  // namespace tessera::cuda
