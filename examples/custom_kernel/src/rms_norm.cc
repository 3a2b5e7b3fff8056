// rms_norm(out, x, weight, eps) on a CPU: out[t] = x[t] / sqrt(mean(x[t]^2) + eps) * weight, in float32, rounded once.
#include <cmath>

#include "common.h"

namespace {

struct F32 {
  static float get(const void* p, int64_t i) { return static_cast<const float*>(p)[i]; }
  static void put(void* p, int64_t i, float v) { static_cast<float*>(p)[i] = v; }
};

struct Bf16 {
  static float get(const void* p, int64_t i) {
    const uint32_t bits = static_cast<uint32_t>(static_cast<const uint16_t*>(p)[i]) << 16;
    float v;
    std::memcpy(&v, &bits, sizeof v);
    return v;
  }
  static void put(void* p, int64_t i, float v) {  // to nearest even
    uint32_t bits;
    std::memcpy(&bits, &v, sizeof bits);
    static_cast<uint16_t*>(p)[i] = static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
  }
};

template <class Act, class Weight>
void norm(TensorView out, TensorView x, TensorView weight, float eps) {
  const int64_t tokens = x.size(0), n = x.size(1);
  for (int64_t t = 0; t < tokens; ++t) {
    double squares = 0;
    for (int64_t i = t * n; i < (t + 1) * n; ++i) {
      const float v = Act::get(x.data_ptr(), i);
      squares += static_cast<double>(v) * v;
    }
    const float inverse = 1.0f / std::sqrt(static_cast<float>(squares / static_cast<double>(n)) + eps);
    for (int64_t i = 0; i < n; ++i) {
      const float v = Act::get(x.data_ptr(), t * n + i) * inverse * Weight::get(weight.data_ptr(), i);
      Act::put(out.data_ptr(), t * n + i, v);
    }
  }
}

void rms_norm(TensorView out, TensorView x, TensorView weight, double eps) {
  check_rms_norm(out, x, weight, kDLCPU);
  const auto e = static_cast<float>(eps);
  const bool f32 = is_f32(x.dtype()), weight_f32 = is_f32(weight.dtype());
  if (f32 && weight_f32) norm<F32, F32>(out, x, weight, e);
  if (f32 && !weight_f32) norm<F32, Bf16>(out, x, weight, e);
  if (!f32 && weight_f32) norm<Bf16, F32>(out, x, weight, e);
  if (!f32 && !weight_f32) norm<Bf16, Bf16>(out, x, weight, e);
}

}  // namespace

TVM_FFI_DLL_EXPORT_TYPED_FUNC(rms_norm_cpu, rms_norm)
