// Decode attention: one query a sequence over the paged cache, keys split over warps and blocks. A kv head's query heads
// (up to 8) are the 8 columns of mma.sync: S^T = K Q^T and O^T = V^T P^T, so nothing is padded; P^T goes from accumulator
// to operand by movmatrix, V^T is built from 16-byte row loads by byte permutes. Partial results meet in a fixed order;
// the sink enters the denominator once, at the end.
#include "kernels/cuda/device/fp8.cuh"
#include "kernels/cuda/device/ptx.cuh"
#include "kernels/cuda/device/reduce.cuh"
#include "kernels/cuda/device/rotate.cuh"
#include "kernels/cuda/device/value.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rows.h"

namespace tessera::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kWarpKeys = 32;
constexpr int kBlockKeys = kWarps * kWarpKeys;
constexpr int kMaxSplits = 64;  // two a lane of the merge
constexpr float kLog2e = 1.4426950408889634f;

struct DecodeArgs {
  const void* q;  // [B, Q, D], or the step's packed heads [B, Q + 2K, D], not rotated yet
  void* k;        // [pages, K, P, D]
  void* v;
  const void *cos, *sin;  // [B, D/2], with packed heads
  const int32_t* slots;   // [B], likewise
  const int32_t* page_table;  // [B, M]
  const int32_t* context;     // [B]
  AnyVector sinks;
  void* out;  // [B, Q, D]
  float* partial_o;  // [B, Q, splits, D]
  float* partial_ml;  // [B, Q, splits, 2]: maximum (log2 units), sum
  int q_heads, kv_heads, page_size, pages_per_sequence, window;
  float scale_log2;
};

// Final value of one element: the merged o and l at maximum m, with the sink (log2 units; -inf: none) in the denominator.
__device__ __forceinline__ float finish(float o, float m, float l, float sink) {
  if (sink == -INFINITY) return l > 0.0f ? o / l : 0.0f;
  float top = fmaxf(m, sink);
  float own = exp2f(m - top);
  return o * own / (l * own + exp2f(sink - top));
}

__device__ __forceinline__ float sink_of(const DecodeArgs& a, int head) {
  return a.sinks.data == nullptr ? -INFINITY : a.sinks.at(head) * kLog2e;
}

// Rotates the step's own key of one kv head and writes it and its value to shared memory, and to the cache unless slot is
// negative. Called by one warp, after the wait.
template <class T, int D>
__device__ __forceinline__ void write_own_key(const DecodeArgs& a, int sequence, int kv_head, int slot, T* own_k, T* own_v) {
  constexpr int kPieces = D / 16;  // of a head's half
  int lane = threadIdx.x % 32, piece = lane % kPieces;
  bool is_v = lane >= kPieces;
  if (lane >= 2 * kPieces) return;
  int head = a.q_heads + (is_v ? a.kv_heads : 0) + kv_head;
  const T* from = static_cast<const T*>(a.q) + (static_cast<int64_t>(sequence) * (a.q_heads + 2 * a.kv_heads) + head) * D + 8 * piece;
  uint4 lo = load_act(from), hi = load_act(from + D / 2);
  if (!is_v) {
    int64_t at = static_cast<int64_t>(sequence) * (D / 2) + 8 * piece;
    rotate<T>(lo, hi, load_act(static_cast<const T*>(a.cos) + at), load_act(static_cast<const T*>(a.sin) + at));
  }
  T* own = (is_v ? own_v : own_k) + 8 * piece;
  *reinterpret_cast<uint4*>(own) = lo;
  *reinterpret_cast<uint4*>(own + D / 2) = hi;
  if (slot < 0) return;
  int64_t line = (static_cast<int64_t>(slot / a.page_size) * a.kv_heads + kv_head) * a.page_size + slot % a.page_size;
  T* to = static_cast<T*>(is_v ? a.v : a.k) + line * D + 8 * piece;
  *reinterpret_cast<uint4*>(to) = lo;
  *reinterpret_cast<uint4*>(to + D / 2) = hi;
}

// 32 keys from `tile` on, and their values, as the lanes' operands; keys past the end (exclusive) repeat the last one.
template <class T, class C, int D>
struct Tile {
  static constexpr int kChunks = D / 32;  // 16-byte pieces of K a lane reads per key row
  static constexpr int kParts = D / 64;   // 16-byte pieces of V a lane reads per key
  uint4 k[4][kChunks];     // of key 8i + g, columns 32j + 8c .. +7
  uint4 v[2][4][kParts];   // of key 16 half + {2c, 2c+1, 2c+8, 2c+9}, columns 64 part + 8g .. +7

  static __device__ __forceinline__ int value_key(int half, int i, int c) { return 16 * half + 2 * c + (i & 1) + 8 * (i >> 1); }

  __device__ __forceinline__ void load(const DecodeArgs& a, const int32_t* table, int kv_head, int tile, int end) {
    int lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
    int key = min(tile + lane, end - 1);  // whose place this lane finds
    int64_t page = table[key / a.page_size];
    int64_t my_row = ((page * a.kv_heads + kv_head) * a.page_size + key % a.page_size) * D;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const C* row = static_cast<const C*>(a.k) + __shfl_sync(0xffffffffu, my_row, 8 * i + g) + 8 * c;
#pragma unroll
      for (int j = 0; j < kChunks; ++j) k[i][j] = load_cache<T>(row + 32 * j);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const C* row = static_cast<const C*>(a.v) + __shfl_sync(0xffffffffu, my_row, value_key(half, i, c)) + 8 * g;
#pragma unroll
        for (int part = 0; part < kParts; ++part) v[half][i][part] = load_cache<T>(row + 64 * part);
      }
  }

  // The tile's keys from `first` on become the one at own_k, own_v: the step's own, or a repetition of it.
  __device__ __forceinline__ void replace(int first, const T* own_k, const T* own_v) {
    int lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < kChunks; ++j)
        if (8 * i + g >= first) k[i][j] = load_act(own_k + 32 * j + 8 * c);
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int part = 0; part < kParts; ++part)
          if (value_key(half, i, c) >= first) v[half][i][part] = load_act(own_v + 64 * part + 8 * g);
  }
};

// Grid: (kv heads, B, splits). With kRotate, q is packed: queries are rotated on the way in, and the block that reads the
// step's own key writes it. What earlier steps and the step's first launches have written is then read before the wait, the
// first keys and values among it: after it those loads would queue behind the next product's weights (measured, one of two
// ranks of a 120b: 5.6 us instead of 6.8). That is complete: this grid begins after the first layer's norm has begun, which
// begins after the embedding's blocks have waited for all before them (elementwise.cu: nobody begins before). The
// cache holds C: T, or bytes of E4M3.
template <class T, class C, int D, bool kRotate>
__global__ void __launch_bounds__(32 * kWarps) attention_decode(DecodeArgs a) {
  if constexpr (!kRotate) {
    wait_for_previous_grid();
    allow_next_grid();
  }
  constexpr int kChunks = D / 32, kParts = D / 64;
  __shared__ float sink[8];
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
  int kv_head = blockIdx.x, sequence = blockIdx.y, split = blockIdx.z, splits = gridDim.z;
  int group = a.q_heads / a.kv_heads;
  int context = a.context[sequence];
  int first_key = a.window > 0 ? max(0, context - a.window) : 0;
  int tiles = (context - first_key + kBlockKeys - 1) / kBlockKeys;
  int tiles_per_split = (tiles + splits - 1) / splits;
  int block_begin = first_key + split * tiles_per_split * kBlockKeys, begin = block_begin + warp * kWarpKeys;
  int end = min(context, first_key + (split + 1) * tiles_per_split * kBlockKeys);
  const int32_t* table = a.page_table + static_cast<int64_t>(sequence) * a.pages_per_sequence;
  if (splits == 1 && threadIdx.x < group) sink[threadIdx.x] = sink_of(a, kv_head * group + threadIdx.x);

  Tile<T, C, D> keys;
  if (begin < end) keys.load(a, table, kv_head, begin, end);
  uint4 q[kChunks];  // Q^T: lane (g, c) holds head g, columns 32j + 8c .. +7
  auto load_queries = [&](int heads) {
    const T* row =
        static_cast<const T*>(a.q) + (static_cast<int64_t>(sequence) * heads + kv_head * group + min(g, group - 1)) * D + 8 * c;
#pragma unroll
    for (int j = 0; j < kChunks; ++j) q[j] = load_act(row + 32 * j);
  };
  if constexpr (kRotate) {
    constexpr int kHalf = kChunks / 2;
    __shared__ __align__(16) T own_k[D], own_v[D];
    uint4 cos[kHalf], sin[kHalf];
#pragma unroll
    for (int j = 0; j < kHalf; ++j) {
      int64_t at = static_cast<int64_t>(sequence) * (D / 2) + 32 * j + 8 * c;
      cos[j] = load_act(static_cast<const T*>(a.cos) + at);
      sin[j] = load_act(static_cast<const T*>(a.sin) + at);
    }
    int slot = a.slots[sequence];
    allow_next_grid();
    wait_for_previous_grid();
    load_queries(a.q_heads + 2 * a.kv_heads);
    if (block_begin < context && end == context) {
      if (warp == 0) write_own_key<T, D>(a, sequence, kv_head, slot, own_k, own_v);
      __syncthreads();
      if (begin < end && begin + kWarpKeys >= context) keys.replace(context - 1 - begin, own_k, own_v);
    }
#pragma unroll
    for (int j = 0; j < kHalf; ++j) rotate<T>(q[j], q[j + kHalf], cos[j], sin[j]);
  } else {
    load_queries(a.q_heads);
  }
  float o[kParts][4][4] = {};  // rows d = 64 part + 8g + 2j and +1, heads 2c, 2c+1
  float m[2] = {-INFINITY, -INFINITY}, l[2] = {0.0f, 0.0f};

  for (int tile = begin; tile < end; tile += kBlockKeys) {
    if (tile > begin) keys.load(a, table, kv_head, tile, end);
    const auto& [k, v] = keys;
    float s[2][4] = {};
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int j = 0; j < kChunks; ++j) {
        const uint4 &lo = k[2 * half][j], &hi = k[2 * half + 1][j];
        mma_16x8x16<T>(s[half], lo.x, hi.x, lo.y, hi.y, q[j].x, q[j].y);
        mma_16x8x16<T>(s[half], lo.z, hi.z, lo.w, hi.w, q[j].z, q[j].w);
      }
    // s[half][0..1]: key 16 half + g, heads 2c, 2c+1; [2..3]: key + 8.
    float top[2] = {m[0], m[1]};
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        bool visible = tile + 16 * half + g + 8 * (i >> 1) < end;
        s[half][i] = visible ? s[half][i] * a.scale_log2 : -INFINITY;
        top[i & 1] = fmaxf(top[i & 1], s[half][i]);
      }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int offset = 4; offset < 32; offset *= 2) top[h] = fmaxf(top[h], __shfl_xor_sync(0xffffffffu, top[h], offset));
      float shrink = exp2f(m[h] - top[h]);  // the tile has a visible key, so top is finite
      m[h] = top[h];
      l[h] *= shrink;
#pragma unroll
      for (int part = 0; part < kParts; ++part)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          o[part][j][h] *= shrink;
          o[part][j][2 + h] *= shrink;
        }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        s[half][i] = exp2f(s[half][i] - m[i & 1]);
        l[i & 1] += s[half][i];
      }
      uint32_t b0 = movmatrix_trans(pack2<T>(s[half][0], s[half][1]));
      uint32_t b1 = movmatrix_trans(pack2<T>(s[half][2], s[half][3]));
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        const uint32_t* v0 = reinterpret_cast<const uint32_t*>(&v[half][0][part]);
        const uint32_t* v1 = reinterpret_cast<const uint32_t*>(&v[half][1][part]);
        const uint32_t* v2 = reinterpret_cast<const uint32_t*>(&v[half][2][part]);
        const uint32_t* v3 = reinterpret_cast<const uint32_t*>(&v[half][3][part]);
#pragma unroll
        for (int j = 0; j < 4; ++j)
          mma_16x8x16<T>(o[part][j], prmt(v0[j], v1[j], 0x5410), prmt(v0[j], v1[j], 0x7632), prmt(v2[j], v3[j], 0x5410),
                         prmt(v2[j], v3[j], 0x7632), b0, b1);
      }
    }
  }
#pragma unroll
  for (int h = 0; h < 2; ++h)
#pragma unroll
    for (int offset = 4; offset < 32; offset *= 2) l[h] += __shfl_xor_sync(0xffffffffu, l[h], offset);

  __shared__ float warp_o[kWarps][8][D + 4];
  __shared__ float warp_m[kWarps][8], warp_l[kWarps][8];
#pragma unroll
  for (int part = 0; part < kParts; ++part)
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        int d = 64 * part + 8 * g + 2 * j;
        warp_o[warp][2 * c + h][d] = o[part][j][h];
        warp_o[warp][2 * c + h][d + 1] = o[part][j][2 + h];
      }
  if (g == 0)
    for (int h = 0; h < 2; ++h) {
      warp_m[warp][2 * c + h] = m[h];
      warp_l[warp][2 * c + h] = l[h];
    }
  __syncthreads();
  for (int i = threadIdx.x; i < group * D; i += 32 * kWarps) {
    int h = i / D, d = i % D;
    float top = -INFINITY;
    for (int w = 0; w < kWarps; ++w) top = fmaxf(top, warp_m[w][h]);
    float sum_o = 0.0f, sum_l = 0.0f;
    for (int w = 0; w < kWarps; ++w) {
      float f = top == -INFINITY ? 0.0f : exp2f(warp_m[w][h] - top);
      sum_o += f * warp_o[w][h][d];
      sum_l += f * warp_l[w][h];
    }
    int head = kv_head * group + h;
    int64_t row = static_cast<int64_t>(sequence) * a.q_heads + head;
    if (splits == 1) {
      static_cast<T*>(a.out)[row * D + d] = from_float<T>(finish(sum_o, top, sum_l, sink[h]));
    } else {
      int64_t part = row * splits + split;
      a.partial_o[part * D + d] = sum_o;
      if (d == 0) {
        a.partial_ml[part * 2] = top;
        a.partial_ml[part * 2 + 1] = sum_l;
      }
    }
  }
}

// Grid: B * Q blocks of D threads. Every warp weighs all splits, a lane two of them; loads of partial results run 16 deep.
template <class T>
__global__ void attention_merge(DecodeArgs a, int splits) {
  int64_t row = blockIdx.x;
  allow_next_grid();
  float sink = sink_of(a, static_cast<int>(row % a.q_heads));
  wait_for_previous_grid();
  __shared__ float factor[kMaxSplits];
  int d = threadIdx.x, D = blockDim.x, lane = d % 32;
  const float2* ml = reinterpret_cast<const float2*>(a.partial_ml) + row * splits;
  const float2 nothing = {-INFINITY, 0.0f};
  float2 first = lane < splits ? ml[lane] : nothing, second = lane + 32 < splits ? ml[lane + 32] : nothing;
  float top = fmaxf(first.x, second.x);
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, offset));
  float f0 = top == -INFINITY ? 0.0f : exp2f(first.x - top), f1 = top == -INFINITY ? 0.0f : exp2f(second.x - top);
  float l = warp_sum(f0 * first.y + f1 * second.y);
  if (d < 32) {
    factor[lane] = f0;
    factor[lane + 32] = f1;
  }
  __syncthreads();
  const float* from = a.partial_o + row * splits * D + d;
  constexpr int kBatch = 16;
  float o = 0.0f;
  for (int base = 0; base < splits; base += kBatch) {
    float v[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) v[i] = base + i < splits ? from[(base + i) * D] : 0.0f;
#pragma unroll
    for (int i = 0; i < kBatch; ++i) o += factor[base + i] * v[i];
  }
  static_cast<T*>(a.out)[row * D + d] = from_float<T>(finish(o, top, l, sink));
}

Verdict supports(const AttentionArgs& a) {
  if (!on_gpu(a.q)) return {"the tensors are not on a CUDA device"};
  if (!is_16_bit(a.q.dtype)) return {"queries are not BF16 or F16"};
  if (a.cache.k.dtype != a.q.dtype && a.cache.k.dtype != DType::kF8E4M3) return {"the cache is neither of the queries' type nor E4M3"};
  if (a.max_queries != 1 || a.q.dim(0) != a.context.dim(0)) return {"some sequence has other than one query"};
  if (a.q.dim(2) != 64 && a.q.dim(2) != 128) return {"the head dimension is not 64 or 128"};
  if (a.q.dim(1) % a.cache.k.dim(1) != 0 || a.q.dim(1) / a.cache.k.dim(1) > 8)
    return {"a kv head serves more than 8 query heads"};
  return kAccepted;
}

// A function of the batch and the largest context only, so that a captured step keeps its grid: about two blocks for
// each of 132 multiprocessors, at least 128 keys each.
int64_t split_count(const AttentionArgs& a) {
  int64_t keys = a.window > 0 && a.window < a.max_context ? a.window : a.max_context;
  int64_t tiles = ceil_div(keys, kBlockKeys);
  int64_t splits = ceil_div(264, a.q.dim(0) * a.cache.k.dim(1));
  splits = splits < tiles ? splits : tiles;
  if (splits < 1) splits = 1;
  return splits < kMaxSplits ? splits : kMaxSplits;
}

int64_t workspace(const AttentionArgs& a) {
  int64_t splits = split_count(a);
  return splits == 1 ? 0 : a.q.dim(0) * a.q.dim(1) * splits * (a.q.dim(2) + 2) * 4;
}

template <bool kRotate>
void run_decode(const AttentionArgs& a, const RopeKvArgs& rope, Stream& stream) {
  int64_t batch = a.q.dim(0), q_heads = a.q.dim(1), kv_heads = a.cache.k.dim(1), head_dim = a.q.dim(2);
  if (batch == 0) return;
  int64_t splits = split_count(a);
  float* scratch = static_cast<float*>(stream.workspace);
  DecodeArgs d{kRotate ? rope.packed.data : a.q.data,
               a.cache.k.data,
               a.cache.v.data,
               rope.cos.data,
               rope.sin.data,
               kRotate ? rope.slots.i32() : nullptr,
               a.page_table.i32(),
               a.context.i32(),
               {a.sinks.data, a.sinks.dtype},
               a.out.data,
               scratch,
               scratch + batch * q_heads * splits * head_dim,
               static_cast<int>(q_heads),
               static_cast<int>(kv_heads),
               static_cast<int>(a.cache.page_size()),
               static_cast<int>(a.page_table.dim(1)),
               static_cast<int>(a.window),
               a.scale * kLog2e};
  dispatch_16_bit(a.q.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    auto kernel = head_dim == 64 ? attention_decode<T, T, 64, kRotate> : attention_decode<T, T, 128, kRotate>;
    if constexpr (!kRotate)
      if (a.cache.k.dtype == DType::kF8E4M3)
        kernel = head_dim == 64 ? attention_decode<T, uint8_t, 64, false> : attention_decode<T, uint8_t, 128, false>;
    launch("attention", kernel, dim3(kv_heads, batch, splits), dim3(32 * kWarps), 0, stream, d);
    if (splits > 1)
      launch("attention merge", attention_merge<T>, dim3(batch * q_heads), dim3(head_dim), 0, stream, d,
             static_cast<int>(splits));
  });
}

void run(const AttentionArgs& a, Stream& stream) {
  run_decode<false>(a, {}, stream);
}

Verdict supports_packed(const RopeAttentionArgs& a) {
  if (!a.rope.packed.defined()) return {"queries, keys and values are not packed"};
  if (Verdict v = supports(a.attention); !v) return v;
  for (const Tensor* t : {&a.rope.packed, &a.rope.cos, &a.rope.sin, &a.attention.cache.k, &a.attention.cache.v})
    if (t->dtype != a.attention.q.dtype || reinterpret_cast<uintptr_t>(t->data) % 16 != 0)
      return {"an operand is not of the queries' type, or not 16-byte aligned"};
  return kAccepted;
}

}  // namespace

KernelRow<RopeAttentionArgs> rope_attention_decode_row() {
  return {"rope_attention_decode_16bit", DeviceType::kCuda, "the same, rotating on the way in and writing the step's own keys",
          supports_packed, [](const RopeAttentionArgs& a) { return workspace(a.attention); },
          [](const RopeAttentionArgs& a, Stream& stream) { run_decode<true>(a.attention, a.rope, stream); }, true};
}

KernelRow<AttentionArgs> attention_decode_row() {
  return {"attention_decode_16bit", DeviceType::kCuda, "one query a sequence, keys split over the chip", supports, workspace, run, true};
}

}  // namespace tessera::cuda
