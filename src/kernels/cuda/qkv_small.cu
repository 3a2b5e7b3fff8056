// q, k and v, rotation and cache write in one launch, for few tokens: bound by weight reads. A block takes 16 rows of one
// head: 8 of its first half and their 8 partners of the second, so that both ends of a rotation meet in one lane. 16 warps
// share K, each with its whole share of weights in flight before the grid may read x.
#include "kernels/cuda/device/row_product.cuh"
#include "kernels/cuda/device/value.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rows.h"

namespace tessera::cuda {
namespace {

constexpr int kWarps = 16;
constexpr int kMaxTokens = 8;

struct QkvKernelArgs {
  const void* x;             // [T, H]
  const void *q, *k, *v;     // weights
  AnyVector q_bias, k_bias, v_bias;
  const void *cos, *sin;  // [T, D/2]
  const int32_t* slots;   // [T]
  void *cache_k, *cache_v;
  void* out;  // [T, Q, D]
  int tokens, hidden, heads, kv_heads, head_dim, page_size;
};

// Grid: strips of 16 rows, heads of q, k, v in turn.
template <class T, int kDepth>
__global__ void __launch_bounds__(32 * kWarps) qkv_small(QkvKernelArgs a) {
  __shared__ float partial[kWarps][32][4];
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
  int half = a.head_dim / 2, parts = half / 8;
  int head = blockIdx.x / parts, part = blockIdx.x % parts;
  bool is_q = head < a.heads, is_k = !is_q && head < a.heads + a.kv_heads;
  const void* matrix = is_q ? a.q : is_k ? a.k : a.v;
  const AnyVector bias = is_q ? a.q_bias : is_k ? a.k_bias : a.v_bias;
  if (!is_q) head -= is_k ? a.heads : a.heads + a.kv_heads;
  int element = 8 * part + g;  // of the head; its partner is element + half
  int row = head * a.head_dim + element;
  int steps = a.hidden / 32;
  int begin = steps * warp / kWarps, count = steps * (warp + 1) / kWarps - begin;
  const T* w0 = static_cast<const T*>(matrix) + static_cast<int64_t>(row) * a.hidden + 32 * begin + 8 * c;
  const T* w1 = w0 + static_cast<int64_t>(half) * a.hidden;
  const T* x[1] = {static_cast<const T*>(a.x) + static_cast<int64_t>(min(g, a.tokens - 1)) * a.hidden + 32 * begin + 8 * c};
  // The first warp's lane finishes tokens 2c and 2c+1.
  float bias0 = 0.0f, bias1 = 0.0f, cosine[2] = {}, sine[2] = {};
  int slot[2] = {-1, -1};
  float acc[1][4];
  row_product<T, 1, kDepth>(acc, w0, w1, count, x, [&] {
    if (warp == 0) {
      bias0 = bias.at(row);
      bias1 = bias.at(row + half);
    }
    wait_for_previous_grid();
    allow_next_grid();
    int lines = count / 2 + 1;
    for (int i = lane; i < a.tokens * lines; i += 32)
      touch(static_cast<const T*>(a.x) + static_cast<int64_t>(i / lines) * a.hidden + 32 * begin +
            min(i % lines * 64, count * 32 - 8));
    if (warp != 0) return;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      int token = min(2 * c + j, a.tokens - 1);
      cosine[j] = to_float(static_cast<const T*>(a.cos)[token * half + element]);
      sine[j] = to_float(static_cast<const T*>(a.sin)[token * half + element]);
      slot[j] = a.slots[token];
    }
  });
  *reinterpret_cast<float4*>(partial[warp][lane]) = make_float4(acc[0][0], acc[0][1], acc[0][2], acc[0][3]);
  __syncthreads();
  if (warp != 0) return;
#pragma unroll
  for (int w = 1; w < kWarps; ++w) {
    float4 p = *reinterpret_cast<const float4*>(partial[w][lane]);
    acc[0][0] += p.x;
    acc[0][1] += p.y;
    acc[0][2] += p.z;
    acc[0][3] += p.w;
  }
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    int token = 2 * c + j;
    if (token >= a.tokens) continue;
    float lo = round_to<T>(acc[0][j] + bias0), hi = round_to<T>(acc[0][2 + j] + bias1);
    if (is_q || is_k) {
      float rotated = lo * cosine[j] - hi * sine[j];
      hi = hi * cosine[j] + lo * sine[j];
      lo = rotated;
    }
    T* to;
    if (is_q) {
      to = static_cast<T*>(a.out) + (static_cast<int64_t>(token) * a.heads + head) * a.head_dim;
    } else {
      if (slot[j] < 0) continue;
      int64_t line = (static_cast<int64_t>(slot[j] / a.page_size) * a.kv_heads + head) * a.page_size + slot[j] % a.page_size;
      to = static_cast<T*>(is_k ? a.cache_k : a.cache_v) + line * a.head_dim;
    }
    to[element] = from_float<T>(lo);
    to[element + half] = from_float<T>(hi);
  }
}

Verdict supports(const QkvArgs& a) {
  if (!on_gpu(a.x)) return {"the tensors are not on a CUDA device"};
  if (!is_16_bit(a.x.dtype)) return {"activations are not BF16 or F16"};
  for (const Weight* w : {&a.q, &a.k, &a.v})
    if (w->format != WeightFormat::kPlain || w->values.dtype != a.x.dtype) return {"weights are not of the activations' type"};
  if (a.cache.k.dtype != a.x.dtype) return {"the cache is not of the activations' type"};
  if (a.x.dim(0) > kMaxTokens) return {"more than 8 tokens"};
  if (a.x.dim(1) % 32 != 0 || a.x.dim(1) < 32 * kWarps) return {"the hidden size is not a multiple of 32 from 512 on"};
  if (a.out.dim(2) % 16 != 0) return {"the head dimension is not a multiple of 16"};
  return kAccepted;
}

void run(const QkvArgs& a, Stream& stream) {
  if (a.x.dim(0) == 0) return;
  auto vector_of = [](const Tensor& t) { return AnyVector{t.data, t.dtype}; };
  QkvKernelArgs k{a.x.data,
                  a.q.values.data,
                  a.k.values.data,
                  a.v.values.data,
                  vector_of(a.q_bias),
                  vector_of(a.k_bias),
                  vector_of(a.v_bias),
                  a.cos.data,
                  a.sin.data,
                  a.slots.i32(),
                  a.cache.k.data,
                  a.cache.v.data,
                  a.out.data,
                  static_cast<int>(a.x.dim(0)),
                  static_cast<int>(a.x.dim(1)),
                  static_cast<int>(a.out.dim(1)),
                  static_cast<int>(a.cache.k.dim(1)),
                  static_cast<int>(a.out.dim(2)),
                  static_cast<int>(a.cache.page_size())};
  dispatch_16_bit(a.x.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    auto kernel = k.hidden <= 32 * kWarps * 6 ? qkv_small<T, 6> : qkv_small<T, 8>;
    launch("qkv", kernel, dim3((k.heads + 2 * k.kv_heads) * k.head_dim / 16), dim3(32 * kWarps), 0, stream, k);
  });
}

}  // namespace

KernelRow<QkvArgs> qkv_small_row() {
  return {"qkv_16bit_small", DeviceType::kCuda, "mma.sync with weights as A, bound by weight reads: up to 8 tokens", supports,
          nullptr, run, true};
}

}  // namespace tessera::cuda
