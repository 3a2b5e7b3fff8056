#include "loading/cast.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"

namespace tessera {

namespace {

// Each type as its bits, with the way to float and back.
struct F32 {
  using Bits = uint32_t;
  static float to_float(Bits b) { return std::bit_cast<float>(b); }
  static Bits from_float(float f) { return std::bit_cast<Bits>(f); }
};
struct BF16 {
  using Bits = uint16_t;
  static float to_float(Bits b) { return bf16_to_float(b); }
  static Bits from_float(float f) { return float_to_bf16(f); }
};
struct F16 {
  using Bits = uint16_t;
  static float to_float(Bits b) { return f16_to_float(b); }
  static Bits from_float(float f) { return float_to_f16(f); }
};

template <class From, class To>
typename To::Bits convert(const char* src) {
  typename From::Bits bits;
  std::memcpy(&bits, src, sizeof bits);
  if constexpr (std::is_same_v<From, To>) {
    return bits;
  } else {
    return To::from_float(From::to_float(bits));
  }
}

template <class From, class To>
void cast_loop(const char* src, void* dst, int64_t count) {
  auto* out = static_cast<typename To::Bits*>(dst);
  for (int64_t i = 0; i < count; ++i)
    out[i] = convert<From, To>(src + i * static_cast<int64_t>(sizeof(typename From::Bits)));
}

template <class From, class To>
void transpose_loop(const TransposeArgs& a, int64_t begin, int64_t end) {
  constexpr int64_t kTile = 32;
  constexpr auto kBytes = static_cast<int64_t>(sizeof(typename From::Bits));
  auto* out = static_cast<typename To::Bits*>(a.dst);
  const char* in = static_cast<const char*>(a.src);
  const int64_t stride = a.stride > 0 ? a.stride : a.n;
  for (int64_t c0 = begin; c0 < end; c0 += kTile) {
    int64_t c1 = std::min(c0 + kTile, end);
    for (int64_t r0 = 0; r0 < a.k; r0 += kTile) {
      int64_t r1 = std::min(r0 + kTile, a.k);
      for (int64_t c = c0; c < c1; ++c)
        for (int64_t r = r0; r < r1; ++r) out[c * a.k + r] = convert<From, To>(in + (r * stride + c) * kBytes);
    }
  }
}

// Calls f with the types that stand for (from, to).
template <class F>
void with_types(DType from, DType to, F&& f) {
  auto second = [&](auto source) {
    switch (to) {
      case DType::kF32:
        return f(source, F32{});
      case DType::kBF16:
        return f(source, BF16{});
      case DType::kF16:
        return f(source, F16{});
      default:
        TS_CHECK(false, "no conversion to {}", dtype_name(to));
    }
  };
  switch (from) {
    case DType::kF32:
      return second(F32{});
    case DType::kBF16:
      return second(BF16{});
    case DType::kF16:
      return second(F16{});
    default:
      TS_CHECK(false, "no conversion from {}", dtype_name(from));
  }
}

}  // namespace

bool changes_values(DType from, DType to) {
  return from != to && to != DType::kF32;
}

void cast_values(const void* src, DType from, void* dst, DType to, int64_t count) {
  if (from == to) {
    if (count > 0) std::memcpy(dst, src, static_cast<size_t>(count * dtype_size(to)));
    return;
  }
  with_types(from, to,
             [&]<class From, class To>(From, To) { cast_loop<From, To>(static_cast<const char*>(src), dst, count); });
}

void transpose_columns(const TransposeArgs& args, int64_t begin, int64_t end) {
  with_types(args.from, args.to, [&]<class From, class To>(From, To) { transpose_loop<From, To>(args, begin, end); });
}

}  // namespace tessera
