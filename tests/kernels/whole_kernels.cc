// Kernels from outside that know nothing of ranks: an rms_norm that is right, for float32, and a moe_mlp that writes
// zeros and has no moe_mlp_part beside it. Built without tvm-ffi's headers.
#include <cmath>
#include <cstring>

#include "kernels/hub/abi.h"

extern "C" void TVMFFIErrorSetRaisedFromCStr(const char* kind, const char* message);

using tessera::ffi::Any;
using tessera::ffi::DlTensor;

extern "C" int __tvm_ffi_rms_norm(void*, const Any* args, int32_t, Any*) {
  const auto *out = static_cast<const DlTensor*>(args[0].p), *x = static_cast<const DlTensor*>(args[1].p);
  if (x->type.bits != 32) {
    TVMFFIErrorSetRaisedFromCStr("TypeError", "expected float32");
    return -1;
  }
  const auto* weight = static_cast<const float*>(static_cast<const DlTensor*>(args[2].p)->data);
  const int64_t n = x->shape[1];
  for (int64_t t = 0; t < x->shape[0]; ++t) {
    const float* from = static_cast<const float*>(x->data) + t * n;
    float squares = 0;
    for (int64_t i = 0; i < n; ++i) squares += from[i] * from[i];
    const float inverse = 1 / std::sqrt(squares / static_cast<float>(n) + static_cast<float>(args[3].d));
    for (int64_t i = 0; i < n; ++i) static_cast<float*>(out->data)[t * n + i] = from[i] * inverse * weight[i];
  }
  return 0;
}

extern "C" int __tvm_ffi_moe_mlp(void*, const Any* args, int32_t, Any*) {
  const auto* out = static_cast<const DlTensor*>(args[0].p);
  std::memset(out->data, 0, static_cast<size_t>(out->shape[0] * out->shape[1] * (out->type.bits / 8)));
  return 0;
}
