// Norm, q, k and v, rotation and cache write in one launch, for few tokens: bound by weight reads. A block takes 16 rows
// of one head: 8 of its first half and their 8 partners of the second, so that both ends of a rotation meet in one lane
// of mma.sync (weights as A). Its warps share K. A warp copies its whole share of weights to shared memory before the
// grid may read activations, each lane exactly the 16-byte pieces that it multiplies, so no barrier guards them. The norm
// costs one barrier: every warp squares its own columns of x.
#include "kernels/cuda/device/ptx.cuh"
#include "kernels/cuda/device/value.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rows.h"

namespace tessera::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kMaxTokens = 16;
constexpr int kMaxSteps = 16;  // of 32 columns a warp: H up to 4096

struct QkvKernelArgs {
  const void* x;            // [T, H]
  const void* norm_weight;  // [H]
  const void *q, *k, *v;    // weights
  AnyVector q_bias, k_bias, v_bias;
  const void *cos, *sin;  // [T, D/2]
  const int32_t* slots;   // [T]
  void *cache_k, *cache_v;
  void* out;  // [T, Q, D]
  int tokens, hidden, heads, kv_heads, head_dim, page_size;
  float eps;
  bool round_before_weight;
};

// 8 normed values: each rounded as RmsNormArgs rounds.
template <class T>
__device__ __forceinline__ uint4 scale_pack(const uint4& x, const uint4& weight, float inverse, bool round_before) {
  auto pair = [&](uint32_t two, uint32_t by) {
    float2 v = unpack2<T>(two), w = unpack2<T>(by);
    v.x *= inverse;
    v.y *= inverse;
    if (round_before) v.x = round_to<T>(v.x), v.y = round_to<T>(v.y);
    return pack2<T>(v.x * w.x, v.y * w.y);
  };
  return {pair(x.x, weight.x), pair(x.y, weight.y), pair(x.z, weight.z), pair(x.w, weight.w)};
}

template <class T>
__device__ __forceinline__ float squares(const uint4& x) {
  auto pair = [](uint32_t two) {
    float2 v = unpack2<T>(two);
    return v.x * v.x + v.y * v.y;
  };
  return pair(x.x) + pair(x.y) + pair(x.z) + pair(x.w);
}

// Grid: strips of 16 rows, heads of q, k, v in turn. Dynamic shared memory: kWarps * kSteps * 1024 bytes.
template <class T, int kTiles, int kSteps>
__global__ void __launch_bounds__(32 * kWarps, kTiles == 1 ? 2 : 1) qkv_small(QkvKernelArgs a) {
  __shared__ float square_sums[kWarps][8 * kTiles];
  __shared__ float partial[kWarps][kTiles][32][4];
  uint32_t weights = dynamic_smem();
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
  uint32_t own = weights + (warp * kSteps * 64 + lane) * 16;  // step i: row at own + 1024 i, partner 512 bytes on
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    int column = min(i, count - 1) * 32;
    cp_async_16(own + i * 1024, w0 + column, i < count);
    cp_async_16(own + i * 1024 + 512, w1 + column, i < count);
    cp_async_commit();
  }
  const T* norm_weight = static_cast<const T*>(a.norm_weight) + 32 * begin + 8 * c;
  for (int i = lane; i < count; i += 32) touch(static_cast<const T*>(a.norm_weight) + 32 * (begin + i));
  float bias0 = bias.at(row), bias1 = bias.at(row + half);
  wait_for_previous_grid();
  allow_next_grid();

  uint4 x[kSteps][kTiles];
  float inverse[kTiles];
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
    const T* from = static_cast<const T*>(a.x) + static_cast<int64_t>(min(t * 8 + g, a.tokens - 1)) * a.hidden + 32 * begin + 8 * c;
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kSteps; ++i) x[i][t] = i < count ? load_act(from + 32 * i) : uint4{0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      sum += squares<T>(x[i][t]);
      forget(x[i][t]);
    }
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    if (c == 0) square_sums[warp][t * 8 + g] = sum;
  }
  __syncthreads();
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
    float sum = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += square_sums[w][t * 8 + g];
    inverse[t] = rsqrtf(sum / static_cast<float>(a.hidden) + a.eps);
  }
  float acc[2][kTiles][4] = {};
  uint4 scale = load_act(norm_weight);
  unrolled<kSteps>([&](auto index) {
    constexpr int i = decltype(index)::value;
    cp_async_wait<kSteps - 1 - i>();
    uint4 v0 = load_smem(own + i * 1024), v1 = load_smem(own + i * 1024 + 512), now = scale;
    scale = load_act(norm_weight + min(i + 1, count - 1) * 32);
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      uint4 n = scale_pack<T>(x[i][t], now, inverse[t], a.round_before_weight);
      mma_16x8x16<T>(acc[0][t], v0.x, v1.x, v0.y, v1.y, n.x, n.y);
      mma_16x8x16<T>(acc[1][t], v0.z, v1.z, v0.w, v1.w, n.z, n.w);
    }
  });
#pragma unroll
  for (int t = 0; t < kTiles; ++t)
    *reinterpret_cast<float4*>(partial[warp][t][lane]) = make_float4(acc[0][t][0] + acc[1][t][0], acc[0][t][1] + acc[1][t][1],
                                                                     acc[0][t][2] + acc[1][t][2], acc[0][t][3] + acc[1][t][3]);
  __syncthreads();
  if (warp >= kTiles) return;
  // Warp t finishes tokens 8t .. 8t+7: values 0, 1 are the row's tokens 2c, 2c+1; 2, 3 its partner's.
  float sum[4] = {};
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    float4 p = *reinterpret_cast<const float4*>(partial[w][warp][lane]);
    sum[0] += p.x;
    sum[1] += p.y;
    sum[2] += p.z;
    sum[3] += p.w;
  }
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    int token = warp * 8 + 2 * c + j;
    if (token >= a.tokens) continue;
    float lo = round_to<T>(sum[j] + bias0), hi = round_to<T>(sum[2 + j] + bias1);
    if (is_q || is_k) {
      float cosine = to_float(static_cast<const T*>(a.cos)[token * half + element]);
      float sine = to_float(static_cast<const T*>(a.sin)[token * half + element]);
      float rotated = lo * cosine - hi * sine;
      hi = hi * cosine + lo * sine;
      lo = rotated;
    }
    T* to;
    if (is_q) {
      to = static_cast<T*>(a.out) + (static_cast<int64_t>(token) * a.heads + head) * a.head_dim;
    } else {
      int slot = a.slots[token];
      if (slot < 0) continue;
      int64_t line = (static_cast<int64_t>(slot / a.page_size) * a.kv_heads + head) * a.page_size + slot % a.page_size;
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
  if (a.norm_weight.dtype != a.x.dtype) return {"the norm's weight is not of the activations' type"};
  if (a.cache.k.dtype != a.x.dtype) return {"the cache is not of the activations' type"};
  if (a.x.dim(0) > kMaxTokens) return {"more than 16 tokens"};
  int64_t hidden = a.x.dim(1);
  if (hidden % 32 != 0 || hidden < 32 * kWarps || hidden > 32 * kWarps * kMaxSteps)
    return {"the hidden size is not a multiple of 32 from 256 to 4096"};
  if (a.out.dim(2) % 16 != 0) return {"the head dimension is not a multiple of 16"};
  return kAccepted;
}

template <class T, int kTiles, int kSteps>
void run_typed(const QkvKernelArgs& k, Stream& stream) {
  constexpr int kSmem = kWarps * kSteps * 1024;
  auto kernel = qkv_small<T, kTiles, kSteps>;
  allow_smem(kernel, kSmem);
  int strips = (k.heads + 2 * k.kv_heads) * k.head_dim / 16;
  launch("qkv", kernel, dim3(strips), dim3(32 * kWarps), kSmem, stream, k);
}

void run(const QkvArgs& a, Stream& stream) {
  if (a.x.dim(0) == 0) return;
  auto vector_of = [](const Tensor& t) { return AnyVector{t.data, t.dtype}; };
  QkvKernelArgs k{a.x.data,
                  a.norm_weight.data,
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
                  static_cast<int>(a.cache.page_size()),
                  a.eps,
                  a.round_before_weight};
  bool few_columns = k.hidden <= 32 * kWarps * 12;
  dispatch_16_bit(a.x.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    if (k.tokens <= 8) {
      few_columns ? run_typed<T, 1, 12>(k, stream) : run_typed<T, 1, 16>(k, stream);
    } else {
      few_columns ? run_typed<T, 2, 12>(k, stream) : run_typed<T, 2, 16>(k, stream);
    }
  });
}

}  // namespace

KernelRow<QkvArgs> qkv_small_row() {
  return {"qkv_16bit_small", DeviceType::kCuda, "mma.sync with weights as A, bound by weight reads: up to 16 tokens", supports,
          nullptr, run};
}

}  // namespace tessera::cuda
