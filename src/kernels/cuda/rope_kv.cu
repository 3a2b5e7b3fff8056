// Rotation of q and k and the write of keys and values into the paged cache in one pass, 16-byte accesses. A thread takes 8
// elements of a head's first half and their 8 partners: of q (in place), of k (rotated, to the cache), of v (to the cache).
#include <cuda_fp8.h>

#include "kernels/cuda/device/ptx.cuh"
#include "kernels/cuda/device/rotate.cuh"
#include "kernels/cuda/device/value.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rows.h"

namespace tessera::cuda {
namespace {

struct RopeKvKernelArgs {
  void* q;
  const void *k, *v, *packed, *cos, *sin;
  const int32_t* slots;
  void *cache_k, *cache_v;
  int heads, kv_heads, head_dim, page_size, count;  // count: threads with work
};

// 8 values to the cache, which holds T or bytes of E4M3.
template <class T>
__device__ __forceinline__ void store_cache(T* to, const uint4& v) {
  *reinterpret_cast<uint4*>(to) = v;
}
template <class T>
__device__ __forceinline__ void store_cache(uint8_t* to, const uint4& v) {
  auto four = [](uint32_t a, uint32_t b) {
    float2 x = unpack2<T>(a), y = unpack2<T>(b);
    uint32_t low = __nv_cvt_float2_to_fp8x2(x, __NV_SATFINITE, __NV_E4M3);
    return low | static_cast<uint32_t>(__nv_cvt_float2_to_fp8x2(y, __NV_SATFINITE, __NV_E4M3)) << 16;
  };
  *reinterpret_cast<uint2*>(to) = make_uint2(four(v.x, v.y), four(v.z, v.w));
}

template <class T, class C>
__global__ void __launch_bounds__(128) rope_kv(RopeKvKernelArgs a) {
  allow_next_grid();
  wait_for_previous_grid();
  int index = blockIdx.x * blockDim.x + threadIdx.x;
  if (index >= a.count) return;
  int half = a.head_dim / 2, pieces = half / 8, heads = a.heads + 2 * a.kv_heads;
  int piece = index % pieces, head = index / pieces % heads, token = index / pieces / heads;
  bool is_q = head < a.heads, is_v = head >= a.heads + a.kv_heads;
  int64_t packed_offset = (static_cast<int64_t>(token) * heads + head) * a.head_dim + 8 * piece;
  head -= is_q ? 0 : is_v ? a.heads + a.kv_heads : a.heads;
  int64_t offset = (static_cast<int64_t>(token) * (is_q ? a.heads : a.kv_heads) + head) * a.head_dim + 8 * piece;
  const T* from = static_cast<const T*>(is_q ? a.q : is_v ? a.v : a.k) + offset;
  if (a.packed != nullptr) from = static_cast<const T*>(a.packed) + packed_offset;
  uint4 lo = load_act(from), hi = load_act(from + half);
  if (!is_v) {
    int64_t at = static_cast<int64_t>(token) * half + 8 * piece;
    rotate<T>(lo, hi, load_act(static_cast<const T*>(a.cos) + at), load_act(static_cast<const T*>(a.sin) + at));
  }
  if (is_q) {
    T* to = static_cast<T*>(a.q) + offset;
    *reinterpret_cast<uint4*>(to) = lo;
    *reinterpret_cast<uint4*>(to + half) = hi;
    return;
  }
  int slot = a.slots[token];
  if (slot < 0) return;
  int64_t line = (static_cast<int64_t>(slot / a.page_size) * a.kv_heads + head) * a.page_size + slot % a.page_size;
  C* to = static_cast<C*>(is_v ? a.cache_v : a.cache_k) + line * a.head_dim + 8 * piece;
  store_cache<T>(to, lo);
  store_cache<T>(to + half, hi);
}

int64_t values(const RopeKvArgs& a) {
  return a.packed.defined() ? a.packed.numel() : a.q.numel() + 2 * a.k.numel();
}

Verdict supports(const RopeKvArgs& a) {
  if (!on_gpu(a.q)) return {"the tensors are not on a CUDA device"};
  if (!is_16_bit(a.q.dtype)) return {"activations are not BF16 or F16"};
  if (a.cache.k.dtype != a.q.dtype && a.cache.k.dtype != DType::kF8E4M3) return {"the cache is neither of the activations' type nor E4M3"};
  if (a.q.dim(2) % 16 != 0) return {"the head dimension is not a multiple of 16"};
  for (const Tensor* t : {&a.q, &a.k, &a.v, &a.packed, &a.cos, &a.sin, &a.cache.k, &a.cache.v})
    if (reinterpret_cast<uintptr_t>(t->data) % 16 != 0) return {"an operand is not 16-byte aligned"};
  if (values(a) > int64_t{1} << 34) return {"more than 2^30 pieces"};
  return kAccepted;
}

void run(const RopeKvArgs& a, Stream& stream) {
  int64_t count = values(a) / 16;
  if (count == 0) return;
  RopeKvKernelArgs r{a.q.data,
                     a.k.data,
                     a.v.data,
                     a.packed.data,
                     a.cos.data,
                     a.sin.data,
                     a.slots.i32(),
                     a.cache.k.data,
                     a.cache.v.data,
                     static_cast<int>(a.q.dim(1)),
                     static_cast<int>(a.cache.k.dim(1)),
                     static_cast<int>(a.q.dim(2)),
                     static_cast<int>(a.cache.page_size()),
                     static_cast<int>(count)};
  dispatch_16_bit(a.q.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    auto kernel = a.cache.k.dtype == DType::kF8E4M3 ? rope_kv<T, uint8_t> : rope_kv<T, T>;
    launch("rope_kv", kernel, dim3(ceil_div(count, 128)), dim3(128), 0, stream, r);
  });
}

}  // namespace

KernelRow<RopeKvArgs> rope_kv_row() {
  return {"rope_kv_16bit_cuda", DeviceType::kCuda, "one pass, 16-byte accesses", supports, nullptr, run};
}

}  // namespace tessera::cuda
