// Checks that the functions share. What is thrown here reaches the caller as an error of the ABI.
#pragma once

#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/function.h>

#include <cstdint>
#include <cstring>
#include <string>

using tvm::ffi::TensorView;

// TVM_FFI_THROW would build its message in a stream.
[[noreturn]] inline void refuse(const char* kind, const std::string& message) {
  throw tvm::ffi::Error(kind, message, "");
}

inline bool is_f32(DLDataType t) {
  return t.code == kDLFloat && t.bits == 32 && t.lanes == 1;
}
inline bool is_bf16(DLDataType t) {
  return t.code == kDLBfloat && t.bits == 16 && t.lanes == 1;
}

inline int64_t elements(const TensorView& t) {
  int64_t n = 1;
  for (int i = 0; i < t.ndim(); ++i) n *= t.size(i);
  return n;
}

inline void check_tensor(const TensorView& t, const char* name, DLDeviceType device, int ndim) {
  if (t.device().device_type != device) refuse("ValueError", std::string(name) + ": it lies on another device");
  if (ndim >= 0 && t.ndim() != ndim)
    refuse("ValueError", std::string(name) + ": expected " + std::to_string(ndim) + " dimensions");
  if (!t.IsContiguous()) refuse("ValueError", std::string(name) + ": it is not contiguous");
}

// The arguments of rms_norm(out, x, weight, eps): out and x [T, N] of float32 or bfloat16 alike, weight [N] of either.
inline void check_rms_norm(const TensorView& out, const TensorView& x, const TensorView& weight, DLDeviceType device) {
  check_tensor(out, "out", device, 2);
  check_tensor(x, "x", device, 2);
  check_tensor(weight, "weight", device, 1);
  for (DLDataType t : {out.dtype(), x.dtype(), weight.dtype()})
    if (!is_f32(t) && !is_bf16(t)) refuse("TypeError", "expected float32 or bfloat16");
  if (is_f32(out.dtype()) != is_f32(x.dtype())) refuse("TypeError", "out and x differ in type");
  if (out.size(0) != x.size(0) || out.size(1) != x.size(1)) refuse("ValueError", "out and x differ in shape");
  if (weight.size(0) != x.size(1)) refuse("ValueError", "weight is not [N]");
}

inline void check_relu(const TensorView& out, const TensorView& x, DLDeviceType device) {
  check_tensor(out, "out", device, -1);
  check_tensor(x, "x", device, -1);
  if (!is_f32(out.dtype()) || !is_f32(x.dtype())) refuse("TypeError", "expected float32");
  if (elements(out) != elements(x)) refuse("ValueError", "out and x differ in size");
}
