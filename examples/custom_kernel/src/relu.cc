// relu_cpu(out, x), float32 of any shape.
#include "common.h"

namespace {

void relu(TensorView out, TensorView x) {
  check_relu(out, x, kDLCPU);
  const auto* from = static_cast<const float*>(x.data_ptr());
  auto* to = static_cast<float*>(out.data_ptr());
  for (int64_t i = 0; i < elements(x); ++i) to[i] = from[i] > 0 ? from[i] : 0;
}

}  // namespace

TVM_FFI_DLL_EXPORT_TYPED_FUNC(relu_cpu, relu)
