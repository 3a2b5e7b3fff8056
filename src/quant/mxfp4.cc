#include "quant/mxfp4.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

namespace tessera {

namespace {

constexpr int64_t kTile = 64;  // columns quantised at once: 32 x 64 floats stay in the first-level cache

// The 16 values of a block with this scale.
void bf16_table(uint8_t scale, uint16_t (&table)[16]) {
  float s = mxfp4_scale(scale);
  for (int code = 0; code < 16; ++code) table[code] = float_to_bf16(kMxfp4Values[code] * s);
}

float load_float(const Tensor& t, int64_t i) {
  if (t.dtype == DType::kF32) {
    float f;
    std::memcpy(&f, t.as<char>() + i * 4, 4);
    return f;
  }
  uint16_t u;
  std::memcpy(&u, t.as<char>() + i * 2, 2);
  return t.dtype == DType::kBF16 ? bf16_to_float(u) : f16_to_float(u);
}

}  // namespace

float mxfp4_scale(uint8_t scale) {
  if (scale == kMxfp4NanScale) return std::bit_cast<float>(0x7fc00000u);
  // 2^-127 is subnormal: its exponent field is 0 and its mantissa half of the smallest normal's.
  return std::bit_cast<float>(scale == 0 ? 0x00400000u : uint32_t{scale} << 23);
}

bool mxfp4_quantize_columns(const Mxfp4Columns& a) {
  bool finite = true;
  for (int64_t first = 0; first < a.columns; first += kTile) {
    int64_t count = std::min(kTile, a.columns - first);
    const float* x = a.x + first;
    uint32_t largest[kTile] = {};  // magnitudes as bits: the same order, and NaN above infinity
    float inverse[kTile];
    uint8_t codes[kMxfp4Block][kTile];
    for (int64_t i = 0; i < kMxfp4Block; ++i) {
      for (int64_t c = 0; c < count; ++c)
        largest[c] = std::max(largest[c], std::bit_cast<uint32_t>(x[i * a.stride + c]) & 0x7fffffffu);
    }
    for (int64_t c = 0; c < count; ++c) {
      finite &= largest[c] < 0x7f800000u;
      uint32_t exponent =
          (std::bit_cast<uint32_t>(std::bit_cast<float>(largest[c]) / 6.0f) + 0x007fffffu) & 0x7f800000u;
      inverse[c] = exponent == 0 ? 0.0f : 1.0f / std::bit_cast<float>(exponent);
      a.scales[(first + c) * a.scale_step] = static_cast<uint8_t>(exponent >> 23);
    }
    for (int64_t i = 0; i < kMxfp4Block; ++i) {
      for (int64_t c = 0; c < count; ++c) {
        float y = x[i * a.stride + c] * inverse[c];
        float m = std::fabs(y);
        // Each code begins half-way from the one before it; a tie goes to the even code.
        int code = (m > 0.25f) + (m >= 0.75f) + (m > 1.25f) + (m >= 1.75f) + (m > 2.5f) + (m >= 3.5f) + (m > 5.0f);
        codes[i][c] = static_cast<uint8_t>(code | static_cast<int>((std::bit_cast<uint32_t>(y) >> 28) & 8));
      }
    }
    for (int64_t c = 0; c < count; ++c) {
      uint8_t* out = a.blocks + (first + c) * a.block_step;
      for (int64_t j = 0; j < kMxfp4BlockBytes; ++j)
        out[j] = static_cast<uint8_t>(codes[2 * j][c] | codes[2 * j + 1][c] << 4);
    }
  }
  return finite;
}

bool mxfp4_quantize_row(const float* x, int64_t k, uint8_t* blocks, uint8_t* scales) {
  bool finite = true;
  for (int64_t b = 0; b < k / kMxfp4Block; ++b) {
    finite &= mxfp4_quantize_columns({.x = x + b * kMxfp4Block,
                                      .stride = 1,
                                      .columns = 1,
                                      .blocks = blocks + b * kMxfp4BlockBytes,
                                      .block_step = kMxfp4BlockBytes,
                                      .scales = scales + b,
                                      .scale_step = 1});
  }
  return finite;
}

void mxfp4_dequantize_row(const uint8_t* blocks, const uint8_t* scales, int64_t k, float* out) {
  for (int64_t b = 0; b < k / kMxfp4Block; ++b) {
    float scale = mxfp4_scale(scales[b]);
    for (int64_t j = 0; j < kMxfp4BlockBytes; ++j) {
      uint8_t byte = *blocks++;
      *out++ = kMxfp4Values[byte & 15] * scale;
      *out++ = kMxfp4Values[byte >> 4] * scale;
    }
  }
}

void mxfp4_dequantize_row(const uint8_t* blocks, const uint8_t* scales, int64_t k, uint16_t* out) {
  uint16_t table[16];
  for (int64_t b = 0; b < k / kMxfp4Block; ++b) {
    if (b == 0 || scales[b] != scales[b - 1]) bf16_table(scales[b], table);
    for (int64_t j = 0; j < kMxfp4BlockBytes; ++j) {
      uint8_t byte = *blocks++;
      *out++ = table[byte & 15];
      *out++ = table[byte >> 4];
    }
  }
}

bool mxfp4_quantize_experts(const Tensor& plain, const Tensor& blocks, const Tensor& scales, ThreadPool& pool) {
  int64_t experts = plain.dim(0), k = plain.dim(1), n = plain.dim(2), row_blocks = k / kMxfp4Block;
  TS_CHECK(k % kMxfp4Block == 0 && blocks.numel() * 2 == plain.numel() && scales.numel() == experts * n * row_blocks);
  std::atomic<bool> finite{true};
  // One task: 32 inputs of one expert, all outputs.
  pool.parallel_for(experts * row_blocks, 4, [&](int64_t begin, int64_t end, int) {
    std::vector<float> x(static_cast<size_t>(kMxfp4Block * n));
    for (int64_t i = begin; i < end; ++i) {
      int64_t e = i / row_blocks, b = i % row_blocks, source = (e * k + b * kMxfp4Block) * n;
      for (int64_t j = 0; j < kMxfp4Block * n; ++j) x[static_cast<size_t>(j)] = load_float(plain, source + j);
      int64_t first = e * n * row_blocks + b;
      bool good = mxfp4_quantize_columns({.x = x.data(),
                                          .stride = n,
                                          .columns = n,
                                          .blocks = blocks.as<uint8_t>() + first * kMxfp4BlockBytes,
                                          .block_step = row_blocks * kMxfp4BlockBytes,
                                          .scales = scales.as<uint8_t>() + first,
                                          .scale_step = row_blocks});
      if (!good) finite.store(false, std::memory_order_relaxed);
    }
  });
  return finite.load();
}

void mxfp4_dequantize_experts(const Tensor& blocks, const Tensor& scales, const Tensor& plain, ThreadPool& pool) {
  int64_t experts = plain.dim(0), k = plain.dim(1), n = plain.dim(2), row_blocks = k / kMxfp4Block;
  TS_CHECK(plain.dtype == DType::kBF16 && k % kMxfp4Block == 0 && blocks.numel() * 2 == plain.numel());
  pool.parallel_for(experts * row_blocks, 4, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      int64_t e = i / row_blocks, b = i % row_blocks;
      uint16_t* out = plain.as<uint16_t>() + (e * k + b * kMxfp4Block) * n;
      for (int64_t c = 0; c < n; ++c) {
        int64_t block = (e * n + c) * row_blocks + b;
        uint16_t values[kMxfp4Block];
        mxfp4_dequantize_row(blocks.as<uint8_t>() + block * kMxfp4BlockBytes, scales.as<uint8_t>() + block, kMxfp4Block,
                             values);
        for (int64_t j = 0; j < kMxfp4Block; ++j) out[j * n + c] = values[j];
      }
    }
  });
}

uint8_t mxfp4_max_scale(std::span<const uint8_t> scales) {
  uint8_t largest = 0;
  for (uint8_t e : scales) largest = e > largest ? e : largest;
  return largest;
}

int64_t mxfp4_find_nan_scale(std::span<const uint8_t> scales) {
  if (scales.empty()) return -1;
  const void* hit = std::memchr(scales.data(), kMxfp4NanScale, scales.size());
  return hit ? static_cast<const uint8_t*>(hit) - scales.data() : -1;
}

}  // namespace tessera
