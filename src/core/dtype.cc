#include "core/dtype.h"

namespace tessera {

namespace {
struct Name {
  DType type;
  std::string_view safetensors;
  std::string_view config;
};
constexpr Name kNames[] = {
    {DType::kF64, "F64", "float64"},
    {DType::kF32, "F32", "float32"},
    {DType::kF16, "F16", "float16"},
    {DType::kBF16, "BF16", "bfloat16"},
    {DType::kI64, "I64", "int64"},
    {DType::kI32, "I32", "int32"},
    {DType::kI16, "I16", "int16"},
    {DType::kI8, "I8", "int8"},
    {DType::kU8, "U8", "uint8"},
    {DType::kBool, "BOOL", "bool"},
    {DType::kF8E4M3, "F8_E4M3", "float8_e4m3fn"},
    {DType::kF8E5M2, "F8_E5M2", "float8_e5m2"},
};
}  // namespace

std::string_view dtype_name(DType t) {
  for (const Name& n : kNames)
    if (n.type == t) return n.safetensors;
  return "?";
}

std::optional<DType> dtype_from_safetensors(std::string_view name) {
  for (const Name& n : kNames)
    if (n.safetensors == name) return n.type;
  return std::nullopt;
}

std::optional<DType> dtype_from_config(std::string_view name) {
  for (const Name& n : kNames)
    if (n.config == name) return n.type;
  return std::nullopt;
}

float f16_to_float(uint16_t v) {
  uint32_t sign = uint32_t{v & 0x8000u} << 16, exponent = (v >> 10) & 31, mantissa = v & 0x3ffu;
  if (exponent == 0)
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(static_cast<float>(mantissa) * 0x1p-24f));
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

uint16_t float_to_f16(float f) {
  uint32_t u = std::bit_cast<uint32_t>(f);
  uint16_t sign = static_cast<uint16_t>((u >> 16) & 0x8000u);
  u &= 0x7fffffffu;
  if (u > 0x7f800000u) return sign | 0x7e00u;
  if (u >= 0x477ff000u) return sign | 0x7c00u;  // rounds to infinity
  if (u < 0x38800000u) {                        // subnormal half: let the FPU round at the right place
    float magnitude = std::bit_cast<float>(u) + 0.5f;
    return sign | static_cast<uint16_t>(std::bit_cast<uint32_t>(magnitude) - 0x3f000000u);
  }
  u += 0xc8000fffu + ((u >> 13) & 1);
  return sign | static_cast<uint16_t>(u >> 13);
}

}  // namespace tessera
