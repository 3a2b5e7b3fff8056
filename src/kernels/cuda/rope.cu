// Rope tables, rotation in place, and the write of keys and values into the paged cache. Any activation type.
#include <cuda_fp8.h>

#include <algorithm>

#include "kernels/cuda/device/ptx.cuh"
#include "kernels/cuda/device/value.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rows.h"

namespace tessera::cuda {
namespace {

// The model's constant, in host memory; it travels with the launch.
constexpr int kMaxFrequencies = 256;
struct Frequencies {
  float value[kMaxFrequencies];
};

template <class T>
__global__ void rope_table_kernel(const int32_t* positions, const __grid_constant__ Frequencies inv_freq, float factor, T* cos_out, T* sin_out,
                                  int half, int64_t count) {
  wait_for_previous_grid();
  allow_next_grid();
  int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  float angle = static_cast<float>(positions[i / half]) * inv_freq.value[i % half];
  float s, c;
  sincosf(angle, &s, &c);
  cos_out[i] = from_float<T>(c * factor);
  sin_out[i] = from_float<T>(s * factor);
}

// A thread rotates one pair.
template <class T>
__global__ void rope_kernel(T* x, const T* cos, const T* sin, int heads, int half, int64_t count) {
  wait_for_previous_grid();
  allow_next_grid();
  int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  int64_t head = i / half;  // over T * heads
  int pair = static_cast<int>(i % half);
  int64_t table = head / heads * half + pair;
  T* lo = x + head * 2 * half + pair;
  float a = to_float(lo[0]), b = to_float(lo[half]);
  float c = to_float(cos[table]), s = to_float(sin[table]);
  lo[0] = from_float<T>(a * c - b * s);
  lo[half] = from_float<T>(b * c + a * s);
}

// The cache's values: floats, or E4M3.
struct CacheOutput {
  AnyOutput values;
  __device__ __forceinline__ void put(int64_t i, float v) const {
    if (values.dtype == DType::kF8E4M3) {
      static_cast<uint8_t*>(values.data)[i] = __nv_cvt_float_to_fp8(v, __NV_SATFINITE, __NV_E4M3);
    } else {
      values.put(i, v);
    }
  }
};

// A thread moves one element; the cache's type may differ from the activations'.
template <class T>
__global__ void kv_write_kernel(const T* k, const T* v, const int32_t* slots, CacheOutput cache_k, CacheOutput cache_v, int heads,
                                int head_dim, int page_size, int64_t count) {
  wait_for_previous_grid();
  allow_next_grid();
  int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  int64_t row = i / head_dim;  // over T * heads
  int64_t slot = slots[row / heads];
  if (slot < 0) return;
  int64_t page = slot / page_size, offset = slot % page_size;
  int64_t to = ((page * heads + row % heads) * page_size + offset) * head_dim + i % head_dim;
  cache_k.put(to, to_float(k[i]));
  cache_v.put(to, to_float(v[i]));
}

Verdict gpu_float(const Tensor& t) {
  if (!on_gpu(t)) return {"the tensors are not on a CUDA device"};
  if (!is_float(t.dtype)) return {"activations are not F32, BF16 or F16"};
  return kAccepted;
}

void run_table(const RopeTableArgs& a, Stream& stream) {
  int64_t count = a.cos.numel();
  if (count == 0) return;
  Frequencies frequencies{};
  std::copy_n(a.inv_freq.f32(), a.inv_freq.dim(0), frequencies.value);
  dispatch_act(a.cos.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    launch("rope_table", rope_table_kernel<T>, dim3(ceil_div(count, 128)), dim3(128), 0, stream, a.positions.i32(),
           frequencies, a.factor, a.cos.as<T>(), a.sin.as<T>(), static_cast<int>(a.inv_freq.dim(0)), count);
  });
}

void run_rope(const RopeArgs& a, Stream& stream) {
  int64_t count = a.x.numel() / 2;
  if (count == 0) return;
  dispatch_act(a.x.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    launch("rope", rope_kernel<T>, dim3(ceil_div(count, 128)), dim3(128), 0, stream, a.x.as<T>(), a.cos.as<T>(), a.sin.as<T>(),
           static_cast<int>(a.x.dim(1)), static_cast<int>(a.x.dim(2) / 2), count);
  });
}

void run_kv_write(const KvWriteArgs& a, Stream& stream) {
  int64_t count = a.k.numel();
  if (count == 0) return;
  dispatch_act(a.k.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    launch("kv_write", kv_write_kernel<T>, dim3(ceil_div(count, 128)), dim3(128), 0, stream, a.k.as<T>(), a.v.as<T>(),
           a.slots.i32(), CacheOutput{{a.cache.k.data, a.cache.k.dtype}}, CacheOutput{{a.cache.v.data, a.cache.v.dtype}},
           static_cast<int>(a.k.dim(1)), static_cast<int>(a.k.dim(2)), static_cast<int>(a.cache.page_size()), count);
  });
}

}  // namespace

KernelRow<RopeTableArgs> rope_table_row() {
  return {"rope_table_cuda", DeviceType::kCuda, "F32 angles",
          [](const RopeTableArgs& a) {
            if (on_gpu(a.inv_freq)) return Verdict{"the frequencies are not in host memory"};
            if (a.inv_freq.dim(0) > kMaxFrequencies) return Verdict{"heads larger than 512"};
            return gpu_float(a.cos);
          },
          nullptr, run_table};
}

KernelRow<RopeArgs> rope_row() {
  return {"rope_cuda", DeviceType::kCuda, "in place, split halves", [](const RopeArgs& a) { return gpu_float(a.x); }, nullptr,
          run_rope};
}

KernelRow<KvWriteArgs> kv_write_row() {
  return {"kv_write_cuda", DeviceType::kCuda, "scatter into pages",
          [](const KvWriteArgs& a) {
            Verdict v = gpu_float(a.k);
            bool known = is_float(a.cache.k.dtype) || a.cache.k.dtype == DType::kF8E4M3;
            return v && !known ? Verdict{"the cache is not F32, BF16, F16 or E4M3"} : v;
          },
          nullptr, run_kv_write};
}

}  // namespace tessera::cuda
