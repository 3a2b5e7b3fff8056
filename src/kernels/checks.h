// Small checks that the supports() functions of CPU rows share. Pure functions.
#pragma once

#include <initializer_list>

#include "kernels/table.h"

namespace tessera {

inline bool is_float(DType t) {
  return t == DType::kF32 || t == DType::kBF16 || t == DType::kF16;
}

// Every defined tensor lies in CPU memory and is F32, BF16 or F16.
inline Verdict require_cpu_floats(std::initializer_list<const Tensor*> tensors) {
  for (const Tensor* t : tensors) {
    if (!t->defined()) continue;
    if (t->device.type != DeviceType::kCpu) return {"the tensors are not in CPU memory"};
    if (!is_float(t->dtype)) return {"an operand is not F32, BF16 or F16"};
  }
  return kAccepted;
}

// The cache may hold 8-bit floats too.
inline Verdict require_cpu_cache(const KvPages& cache) {
  if (cache.k.device.type != DeviceType::kCpu) return {"the cache is not in CPU memory"};
  if (cache.k.dtype != cache.v.dtype) return {"keys and values are of different types"};
  if (!is_float(cache.k.dtype) && cache.k.dtype != DType::kF8E4M3) return {"the cache is not F32, BF16, F16 or E4M3"};
  return kAccepted;
}

// A weight in CPU memory whose format the CPU rows read: plain floats, or MXFP4 with whole blocks.
inline Verdict require_cpu_weight(const Weight& w) {
  if (w.values.device.type != DeviceType::kCpu) return {"the weight is not in CPU memory"};
  if (w.format == WeightFormat::kPlain) {
    return is_float(w.values.dtype) ? kAccepted : Verdict{"the plain weight is not F32, BF16 or F16"};
  }
  if (w.format == WeightFormat::kMxfp4) {
    if (w.k % 32 != 0) return {"an MXFP4 row is not a multiple of 32 values"};
    return w.scales.defined() ? kAccepted : Verdict{"the MXFP4 weight has no scales"};
  }
  return {"unknown weight format"};
}

}  // namespace tessera
