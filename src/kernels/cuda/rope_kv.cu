// Rotation of q and k and the write of keys and values into the paged cache in one pass, 16-byte accesses. A thread takes 8
// elements of a head's first half and their 8 partners: of q (in place), of k (rotated, to the cache), of v (to the cache).
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

template <class T>
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
  T* to = static_cast<T*>(a.q) + offset;
  if (!is_q) {
    int slot = a.slots[token];
    if (slot < 0) return;
    int64_t line = (static_cast<int64_t>(slot / a.page_size) * a.kv_heads + head) * a.page_size + slot % a.page_size;
    to = static_cast<T*>(is_v ? a.cache_v : a.cache_k) + line * a.head_dim + 8 * piece;
  }
  *reinterpret_cast<uint4*>(to) = lo;
  *reinterpret_cast<uint4*>(to + half) = hi;
}

int64_t values(const RopeKvArgs& a) {
  return a.packed.defined() ? a.packed.numel() : a.q.numel() + 2 * a.k.numel();
}

Verdict supports(const RopeKvArgs& a) {
  if (!on_gpu(a.q)) return {"the tensors are not on a CUDA device"};
  if (!is_16_bit(a.q.dtype) || a.cache.k.dtype != a.q.dtype) return {"activations and cache are not both BF16 or both F16"};
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
    launch("rope_kv", rope_kv<T>, dim3(ceil_div(count, 128)), dim3(128), 0, stream, r);
  });
}

}  // namespace

KernelRow<RopeKvArgs> rope_kv_row() {
  return {"rope_kv_16bit_cuda", DeviceType::kCuda, "one pass, 16-byte accesses", supports, nullptr, run};
}

}  // namespace tessera::cuda
