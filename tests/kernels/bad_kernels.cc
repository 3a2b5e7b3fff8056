// Kernels that do what none should: each function is an rms_norm(out, x, weight, eps) for a CPU. Built without
// tvm-ffi's headers, against the ABI as the program declares it.
#include <unistd.h>

#include <cmath>
#include <cstdlib>

#include "kernels/hub/abi.h"

extern "C" void TVMFFIErrorSetRaisedFromCStr(const char* kind, const char* message);
extern "C" int TVMFFIEnvTensorAlloc(tessera::ffi::DlTensor* prototype, void** out);
extern "C" int TVMFFIObjectDecRef(void* object);

using tessera::ffi::Any;
using tessera::ffi::DlTensor;

namespace {

float* data(const Any& any) {
  return static_cast<float*>(static_cast<const DlTensor*>(any.p)->data);
}
int64_t size(const Any& any, int i) {
  return static_cast<const DlTensor*>(any.p)->shape[i];
}

// F32 only; `wrong` is added to the last value.
int norm(const Any* args, int32_t count, float wrong = 0) {
  if (count != 4 || static_cast<const DlTensor*>(args[0].p)->type.bits != 32) {
    TVMFFIErrorSetRaisedFromCStr("TypeError", "expected four arguments and float32");
    return -1;
  }
  const int64_t n = size(args[1], 1);
  for (int64_t t = 0; t < size(args[1], 0); ++t) {
    const float* x = data(args[1]) + t * n;
    double squares = 0;
    for (int64_t i = 0; i < n; ++i) squares += static_cast<double>(x[i]) * x[i];
    const double inverse = 1 / std::sqrt(squares / static_cast<double>(n) + args[3].d);
    for (int64_t i = 0; i < n; ++i)
      data(args[0])[t * n + i] = static_cast<float>(x[i] * inverse * data(args[2])[i]) + (i == n - 1 ? wrong : 0);
  }
  return 0;
}

// With a temporary tensor of `bytes` from the environment.
int norm_with_temporary(const Any* args, int32_t count, int64_t bytes) {
  int64_t stride = 1;
  DlTensor prototype{nullptr, {tessera::ffi::kDlCpu, 0}, 1, {tessera::ffi::kDlUInt, 8, 1}, &bytes, &stride, 0};
  void* object = nullptr;
  if (TVMFFIEnvTensorAlloc(&prototype, &object) != 0) return -1;
  auto* space = static_cast<char*>(static_cast<tessera::ffi::TensorObject*>(object)->tensor.data);
  for (int64_t i = 0; i < bytes; ++i) space[i] = 1;
  TVMFFIObjectDecRef(object);
  return norm(args, count);
}

}  // namespace

#define KERNEL(name, ...)                                                                                \
  extern "C" int __tvm_ffi_##name(void*, const Any* args, int32_t count, [[maybe_unused]] Any* result) { \
    __VA_ARGS__                                                                                          \
  }

KERNEL(good, return norm(args, count);)
KERNEL(wrong, return norm(args, count, 0.5f);)
KERNEL(writes_past, norm(args, count); data(args[0])[size(args[0], 0) * size(args[0], 1)] = 1; return 0;)
KERNEL(writes_before, norm(args, count); data(args[0])[-1] = 1; return 0;)
KERNEL(writes_input, norm(args, count); data(args[1])[0] = 1; return 0;)
KERNEL(crashes, (void)args; (void)count; std::abort();)
KERNEL(hangs, (void)args; (void)count; for (;;) sleep(1);)
KERNEL(exits, (void)args; (void)count; _exit(0);)
KERNEL(throws, (void)args; (void)count; throw 1;)
KERNEL(does_nothing, (void)args; (void)count; return 0;)
KERNEL(wants_five, (void)args;
       TVMFFIErrorSetRaisedFromCStr("TypeError", count == 5 ? "" : "expected 5 arguments, got 4"); return -1;)
KERNEL(temporary, return norm_with_temporary(args, count, 1000);)
KERNEL(temporary_workspace, (void)args; (void)count; result->type = 1; result->i = 1000; return 0;)
KERNEL(greedy, return norm_with_temporary(args, count, 100000);)
KERNEL(greedy_workspace, (void)args; (void)count; result->type = 1; result->i = 1000; return 0;)
