// Vectors of F32 in and out of F32, BF16 and F16 memory, exact tails included, and the few functions that several
// kernels share. Re-included for each Highway target.
#if defined(TESSERA_CPU_VALUES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TESSERA_CPU_VALUES_INL_H_
#undef TESSERA_CPU_VALUES_INL_H_
#else
#define TESSERA_CPU_VALUES_INL_H_
#endif

#include <algorithm>
#include <cstring>

#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include "core/e4m3.h"
#include "kernels/checks.h"

// The last part of a row's name.
#undef TS_ARCH
#if HWY_TARGET == HWY_AVX3
#define TS_ARCH "avx512"
#elif HWY_TARGET == HWY_AVX2
#define TS_ARCH "avx2"
#else
#define TS_ARCH "simd"
#endif

HWY_BEFORE_NAMESPACE();
namespace tessera::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::CappedTag<float, 16>;
using V = hn::Vec<F32>;
constexpr int64_t kLanes = hn::MaxLanes(F32());

// count elements (>= 1) at p as F32 lanes; lanes beyond count are zero. Full vectors take the first branch.
HWY_INLINE V load(const float* p, int64_t count) {
  const F32 d;
  if (count >= kLanes) return hn::LoadU(d, p);
  HWY_ALIGN float part[kLanes] = {};
  std::memcpy(part, p, static_cast<size_t>(count) * sizeof(float));
  return hn::Load(d, part);
}
HWY_INLINE V load(const hwy::bfloat16_t* p, int64_t count) {
  const F32 d;
  const hn::Rebind<hwy::bfloat16_t, F32> d16;
  if (count >= kLanes) return hn::PromoteTo(d, hn::LoadU(d16, p));
  HWY_ALIGN hwy::bfloat16_t part[kLanes] = {};
  std::memcpy(part, p, static_cast<size_t>(count) * sizeof(*p));
  return hn::PromoteTo(d, hn::Load(d16, part));
}
HWY_INLINE V load(const hwy::float16_t* p, int64_t count) {
  const F32 d;
  const hn::Rebind<hwy::float16_t, F32> d16;
  if (count >= kLanes) return hn::PromoteTo(d, hn::LoadU(d16, p));
  HWY_ALIGN hwy::float16_t part[kLanes] = {};
  std::memcpy(part, p, static_cast<size_t>(count) * sizeof(*p));
  return hn::PromoteTo(d, hn::Load(d16, part));
}

// An 8-bit float. A table widens it, one value at a time: a cache in 8 bits saves memory here, not time.
struct E4M3 {
  uint8_t bits;
};
HWY_INLINE V load(const E4M3* p, int64_t count) {
  HWY_ALIGN float part[kLanes] = {};
  for (int64_t i = 0; i < std::min(count, kLanes); ++i) part[i] = e4m3_to_float(p[i].bits);
  return hn::Load(F32(), part);
}

// Rounds to nearest even, as core/dtype.h does; NaN stays NaN.
HWY_INLINE hn::Vec<hn::Rebind<uint16_t, F32>> to_bf16(V v) {
  const hn::RebindToUnsigned<F32> du;
  const hn::RebindToSigned<F32> di;
  const auto bits = hn::BitCast(du, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7fff)));
  const auto nan = hn::Or(bits, hn::Set(du, 0x400000));
  const auto chosen = hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(v)), nan, rounded);
  return hn::DemoteTo(hn::Rebind<uint16_t, F32>(), hn::BitCast(di, hn::ShiftRight<16>(chosen)));
}

HWY_INLINE void store(float* p, int64_t count, V v) {
  const F32 d;
  if (count >= kLanes) return hn::StoreU(v, d, p);
  HWY_ALIGN float part[kLanes];
  hn::Store(v, d, part);
  std::memcpy(p, part, static_cast<size_t>(count) * sizeof(float));
}
HWY_INLINE void store(hwy::bfloat16_t* p, int64_t count, V v) {
  const hn::Rebind<uint16_t, F32> d16;
  uint16_t* bits = reinterpret_cast<uint16_t*>(p);
  if (count >= kLanes) return hn::StoreU(to_bf16(v), d16, bits);
  HWY_ALIGN uint16_t part[kLanes];
  hn::Store(to_bf16(v), d16, part);
  std::memcpy(bits, part, static_cast<size_t>(count) * sizeof(uint16_t));
}
HWY_INLINE void store(hwy::float16_t* p, int64_t count, V v) {
  const hn::Rebind<hwy::float16_t, F32> d16;
  if (count >= kLanes) return hn::StoreU(hn::DemoteTo(d16, v), d16, p);
  HWY_ALIGN hwy::float16_t part[kLanes];
  hn::Store(hn::DemoteTo(d16, v), d16, part);
  std::memcpy(p, part, static_cast<size_t>(count) * sizeof(*p));
}
HWY_INLINE void store(E4M3* p, int64_t count, V v) {
  HWY_ALIGN float part[kLanes];
  hn::Store(v, F32(), part);
  for (int64_t i = 0; i < std::min(count, kLanes); ++i) p[i].bits = float_to_e4m3(part[i]);
}

// The same with the type chosen at run time: one predictable branch a vector, next to nothing beside memory.
HWY_INLINE V load(const Tensor& t, int64_t i, int64_t count) {
  if (t.dtype == DType::kBF16) return load(t.as<hwy::bfloat16_t>() + i, count);
  if (t.dtype == DType::kF16) return load(t.as<hwy::float16_t>() + i, count);
  return load(t.as<float>() + i, count);
}
HWY_INLINE void store(const Tensor& t, int64_t i, int64_t count, V v) {
  if (t.dtype == DType::kBF16) return store(t.as<hwy::bfloat16_t>() + i, count, v);
  if (t.dtype == DType::kF16) return store(t.as<hwy::float16_t>() + i, count, v);
  store(t.as<float>() + i, count, v);
}
// What storing v as `type` and loading it again gives.
HWY_INLINE V rounded(DType type, V v) {
  const F32 d;
  if (type == DType::kBF16) {
    return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(hn::RebindToUnsigned<F32>(), to_bf16(v))));
  }
  if (type == DType::kF16) return hn::PromoteTo(d, hn::DemoteTo(hn::Rebind<hwy::float16_t, F32>(), v));
  return v;
}

// Adds halves until four lanes are left: lane i + lane i + N/2.
template <class D>
HWY_INLINE auto fold_to_4(D d, hn::Vec<D> v) {
  if constexpr (hn::MaxLanes(D()) == 4) {
    (void)d;
    return v;
  } else {
    const hn::Half<D> half;
    return fold_to_4(half, hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)));
  }
}

// Horizontal sums of four vectors as four lanes. Every dot product of this folder ends here, so its order is one.
HWY_INLINE hn::Vec<hn::CappedTag<float, 4>> sum_4(V a, V b, V c, V e) {
  const hn::CappedTag<float, 4> d4;
  const F32 d;
  const auto a4 = fold_to_4(d, a), b4 = fold_to_4(d, b), c4 = fold_to_4(d, c), e4 = fold_to_4(d, e);
  const auto ab = hn::Add(hn::InterleaveLower(d4, a4, b4), hn::InterleaveUpper(d4, a4, b4));
  const auto ce = hn::Add(hn::InterleaveLower(d4, c4, e4), hn::InterleaveUpper(d4, c4, e4));
  return hn::Add(hn::ConcatLowerLower(d4, ce, ab), hn::ConcatUpperUpper(d4, ce, ab));
}
HWY_INLINE float sum(V v) {
  const V zero = hn::Zero(F32());
  return hn::GetLane(sum_4(v, zero, zero, zero));
}

// 1 / (1 + e^-x). The exponent is capped where Highway's Exp ends; there the result is already zero.
HWY_INLINE V sigmoid(V x) {
  const F32 d;
  const V one = hn::Set(d, 1.0f);
  return hn::Div(one, hn::Add(one, hn::Exp(d, hn::Min(hn::Neg(x), hn::Set(d, 104.0f)))));
}

}  // namespace tessera::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
