// Element types, and conversions between float and the 16-bit formats (round to nearest even).
#pragma once

#include <bit>
#include <cstdint>
#include <optional>
#include <string_view>

namespace tessera {

enum class DType : uint8_t { kF64, kF32, kF16, kBF16, kI64, kI32, kI16, kI8, kU8, kBool, kF8E4M3, kF8E5M2 };

// Bytes of one element.
constexpr int64_t dtype_size(DType t) {
  switch (t) {
    case DType::kF64:
    case DType::kI64:
      return 8;
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kF16:
    case DType::kBF16:
    case DType::kI16:
      return 2;
    default:
      return 1;
  }
}

// Names as safetensors spells them: "F32", "BF16", "U8", ...
std::string_view dtype_name(DType t);
std::optional<DType> dtype_from_safetensors(std::string_view name);
// Names as config.json spells them: "float32", "bfloat16", "float16".
std::optional<DType> dtype_from_config(std::string_view name);

inline float bf16_to_float(uint16_t v) {
  return std::bit_cast<float>(uint32_t{v} << 16);
}

inline uint16_t float_to_bf16(float f) {
  uint32_t u = std::bit_cast<uint32_t>(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((u >> 16) | 0x40);  // keep NaN a NaN
  return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1)) >> 16);
}

float f16_to_float(uint16_t v);
uint16_t float_to_f16(float f);

}  // namespace tessera
