// MXFP4 (OCP microscaling FP4): blocks of 32 values along a weight's inputs, each a 4-bit E2M1 code, with one E8M0
// scale:
//   value = kMxfp4Values[code] * 2^(scale - 127).
// Two codes a byte, the even element in the low nibble. Layout of gpt-oss checkpoints: blocks U8 [.., N, K/32, 16],
// scales U8 [.., N, K/32]. Scale 255 is NaN and is refused when a checkpoint is loaded.
//
// Thread-safe: no state. Pool variants split the work; results never depend on the number of threads.
#pragma once

#include <cstdint>
#include <span>

#include "core/tensor.h"
#include "core/thread_pool.h"

namespace tessera {

constexpr int64_t kMxfp4Block = 32;       // values that share a scale
constexpr int64_t kMxfp4BlockBytes = 16;  // their codes
constexpr uint8_t kMxfp4NanScale = 255;

constexpr float kMxfp4Values[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                                    -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};

// 2^(scale - 127), exactly; NaN for 255.
float mxfp4_scale(uint8_t scale);

// Quantizes `columns` blocks at once: block c holds x[i * stride + c], i < 32; its codes go to blocks + c * block_step
// (16 bytes), its scale to scales + c * scale_step. The rule is that of transformers' MXFP4 kernels (not the OCP floor
// rule), byte for byte: scale = max|x| / 6 rounded up to a power of two (byte 0 for an all-zero block);
// magnitudes round to the nearest code, ties to the even one; the sign of a zero is kept. Returns false, with
// unspecified bytes, when a value is not finite.
struct Mxfp4Columns {
  const float* x;
  int64_t stride;
  int64_t columns;
  uint8_t* blocks;
  int64_t block_step;
  uint8_t* scales;
  int64_t scale_step;
};
bool mxfp4_quantize_columns(const Mxfp4Columns& args);

// One row of k values, a multiple of 32, to k/2 bytes of codes and k/32 scales. Returns false as above.
bool mxfp4_quantize_row(const float* x, int64_t k, uint8_t* blocks, uint8_t* scales);

// The reverse. Exact in F32, and in BF16 too (2 significant bits, exponents down to 2^-128), except that values of
// 2^128 and more become infinite in both.
void mxfp4_dequantize_row(const uint8_t* blocks, const uint8_t* scales, int64_t k, float* out);
void mxfp4_dequantize_row(const uint8_t* blocks, const uint8_t* scales, int64_t k, uint16_t* out_bf16);

// Experts as transformers holds them unquantised, [E, K, N] of F32, BF16 or F16 (inputs before outputs), to blocks
// [E, N, K/32, 16] and scales [E, N, K/32]. Returns false when a value is not finite.
bool mxfp4_quantize_experts(const Tensor& plain, const Tensor& blocks, const Tensor& scales, ThreadPool& pool);

// The reverse, to BF16 [E, K, N].
void mxfp4_dequantize_experts(const Tensor& blocks, const Tensor& scales, const Tensor& plain_bf16, ThreadPool& pool);

// Index of the first scale 255, or -1.
int64_t mxfp4_find_nan_scale(std::span<const uint8_t> scales);
// Largest code; 0 of none.
uint8_t mxfp4_max_scale(std::span<const uint8_t> scales);

}  // namespace tessera
