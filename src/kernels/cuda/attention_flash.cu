// Attention of any number of queries over the paged cache, mma.sync, online softmax. A block takes 128 rows of (token,
// query head of one kv head), so K and V tiles of 64 keys are read once for the whole group; cp.async double buffers,
// rows swizzled in 16-byte pieces. Tiles outside the window or above the diagonal are not visited.
#include "kernels/cuda/device/fp8.cuh"
#include "kernels/cuda/device/ptx.cuh"
#include "kernels/cuda/device/value.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rows.h"

namespace tessera::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kRows = 16 * kWarps;
constexpr int kKeys = 64;
constexpr float kLog2e = 1.4426950408889634f;

struct FlashArgs {
  const void* q;  // [T, Q, D]
  const void* k;  // [pages, K, P, D]
  const void* v;
  const int32_t* page_table;   // [B, M]
  const int32_t* query_start;  // [B+1]
  const int32_t* context;      // [B]
  AnyVector sinks;
  void* out;  // [T, Q, D]
  int q_heads, kv_heads, page_size, pages_per_sequence, window;
  float scale_log2;
};

// Byte offset of 16-byte piece `piece` of row `row` in a tile of D columns.
template <int D>
__device__ __forceinline__ uint32_t tile_offset(int row, int piece) {
  return row * (D * 2) + ((piece ^ (row & 7)) * 16);
}

// Grid: (row tiles, kv heads, B), the tiles with most keys first. The cache holds C: T, or bytes of E4M3, which are widened
// on their way to shared memory.
template <class T, class C, int D>
__global__ void __launch_bounds__(32 * kWarps) attention_flash(FlashArgs a) {
  wait_for_previous_grid();
  allow_next_grid();
  extern __shared__ __align__(128) unsigned char smem[];
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
  int kv_head = blockIdx.y, sequence = blockIdx.z;
  int group = a.q_heads / a.kv_heads;
  int query0 = a.query_start[sequence];
  int queries = a.query_start[sequence + 1] - query0;
  int first_row = (gridDim.x - 1 - blockIdx.x) * kRows;
  if (first_row >= queries * group) return;
  int past = a.context[sequence] - queries;  // position of the sequence's first query
  int low = past + first_row / group;
  int high = past + min((first_row + kRows - 1) / group, queries - 1);
  int tile_begin = a.window > 0 ? max(0, low - a.window + 1) / kKeys : 0;
  int tile_end = high / kKeys + 1;
  const int32_t* table = a.page_table + static_cast<int64_t>(sequence) * a.pages_per_sequence;
  // With a window, entries wholly outside it are not read, so the first tile is cut at its first visible key.
  int first_visible = a.window > 0 ? max(0, low - a.window + 1) : 0;

  // The lane's two rows, g and g + 8 of the warp's 16.
  int position[2], head[2];
  int64_t row_offset[2];
  bool live[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    int row = first_row + warp * 16 + g + 8 * r;
    live[r] = row < queries * group;
    row = min(row, queries * group - 1);
    position[r] = past + row / group;
    head[r] = kv_head * group + row % group;
    row_offset[r] = (static_cast<int64_t>(query0 + row / group) * a.q_heads + head[r]) * D;
  }
  uint32_t q[D / 16][4];
#pragma unroll
  for (int s = 0; s < D / 16; ++s)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      q[s][i] = *reinterpret_cast<const uint32_t*>(static_cast<const T*>(a.q) + row_offset[i & 1] + 16 * s + 8 * (i >> 1) +
                                                   2 * c);

  constexpr int kTileBytes = kKeys * D * 2;
  uint32_t base = smem_address(smem);
  auto load = [&](int tile, int buffer) {
    // Rows before the first visible key repeat it: their pages may be gone. They are masked.
    uint32_t to = base + buffer * 2 * kTileBytes;
    int first = tile * kKeys;
    constexpr int kPieces = D / 8;
    constexpr int kPerPass = 32 * kWarps / kPieces;
    int piece = threadIdx.x % kPieces;
#pragma unroll
    for (int pass = 0; pass < kKeys / kPerPass; ++pass) {
      int row = pass * kPerPass + threadIdx.x / kPieces;
      int key = max(min(first + row, high), first_visible);
      int64_t page = table[key / a.page_size];
      int64_t from = ((page * a.kv_heads + kv_head) * a.page_size + key % a.page_size) * D + piece * 8;
      const C *k = static_cast<const C*>(a.k) + from, *v = static_cast<const C*>(a.v) + from;
      if constexpr (std::is_same_v<C, uint8_t>) {
        store_smem(to + tile_offset<D>(row, piece), load_cache<T>(k));
        store_smem(to + kTileBytes + tile_offset<D>(row, piece), load_cache<T>(v));
      } else {
        cp_async_16(to + tile_offset<D>(row, piece), k, true);
        cp_async_16(to + kTileBytes + tile_offset<D>(row, piece), v, true);
      }
    }
    cp_async_commit();
  };

  float o[D / 8][4] = {};
  float m[2] = {-INFINITY, -INFINITY}, l[2] = {0.0f, 0.0f};
  load(tile_begin, 0);
  for (int tile = tile_begin; tile < tile_end; ++tile) {
    int buffer = (tile - tile_begin) & 1;
    if (tile + 1 < tile_end) {
      load(tile + 1, buffer ^ 1);
      cp_async_wait<1>();
    } else {
      cp_async_wait<0>();
    }
    __syncthreads();
    uint32_t smem_k = base + buffer * 2 * kTileBytes, smem_v = smem_k + kTileBytes;
    float s[kKeys / 8][4] = {};
#pragma unroll
    for (int step = 0; step < D / 16; ++step)
#pragma unroll
      for (int n = 0; n < kKeys / 16; ++n) {
        uint32_t b[4];
        ldmatrix_x4(b, smem_k + tile_offset<D>(n * 16 + (lane / 16) * 8 + lane % 8, step * 2 + (lane / 8) % 2));
        mma_16x8x16<T>(s[2 * n], q[step][0], q[step][1], q[step][2], q[step][3], b[0], b[1]);
        mma_16x8x16<T>(s[2 * n + 1], q[step][0], q[step][1], q[step][2], q[step][3], b[2], b[3]);
      }
    bool whole = tile * kKeys + kKeys - 1 <= low && (a.window == 0 || tile * kKeys > high - a.window);
    float top[2] = {m[0], m[1]};
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        int key = tile * kKeys + 8 * n + 2 * c + (i & 1);
        int r = i >> 1;
        bool visible = whole || (key <= position[r] && (a.window == 0 || key > position[r] - a.window));
        s[n][i] = visible ? s[n][i] * a.scale_log2 : -INFINITY;
        top[r] = fmaxf(top[r], s[n][i]);
      }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      top[r] = fmaxf(top[r], __shfl_xor_sync(0xffffffffu, top[r], 1));
      top[r] = fmaxf(top[r], __shfl_xor_sync(0xffffffffu, top[r], 2));
      float shrink = m[r] == -INFINITY ? 0.0f : exp2f(m[r] - top[r]);
      m[r] = top[r];
      l[r] *= shrink;
#pragma unroll
      for (int n = 0; n < D / 8; ++n) {
        o[n][2 * r] *= shrink;
        o[n][2 * r + 1] *= shrink;
      }
    }
    float zero[2] = {m[0] == -INFINITY ? 0.0f : m[0], m[1] == -INFINITY ? 0.0f : m[1]};
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        s[n][i] = exp2f(s[n][i] - zero[i >> 1]);
        l[i >> 1] += s[n][i];
      }
#pragma unroll
    for (int step = 0; step < kKeys / 16; ++step) {
      uint32_t p0 = pack2<T>(s[2 * step][0], s[2 * step][1]), p1 = pack2<T>(s[2 * step][2], s[2 * step][3]);
      uint32_t p2 = pack2<T>(s[2 * step + 1][0], s[2 * step + 1][1]), p3 = pack2<T>(s[2 * step + 1][2], s[2 * step + 1][3]);
#pragma unroll
      for (int n = 0; n < D / 16; ++n) {
        uint32_t b[4];
        ldmatrix_x4_trans(b, smem_v + tile_offset<D>(step * 16 + (lane / 8) % 2 * 8 + lane % 8, n * 2 + lane / 16));
        mma_16x8x16<T>(o[2 * n], p0, p1, p2, p3, b[0], b[1]);
        mma_16x8x16<T>(o[2 * n + 1], p0, p1, p2, p3, b[2], b[3]);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    l[r] += __shfl_xor_sync(0xffffffffu, l[r], 1);
    l[r] += __shfl_xor_sync(0xffffffffu, l[r], 2);
    float factor;
    if (a.sinks.data == nullptr) {
      factor = 1.0f / l[r];
    } else {
      float sink = a.sinks.at(head[r]) * kLog2e;
      float top = fmaxf(m[r], sink);
      float own = exp2f(m[r] - top);
      factor = own / (l[r] * own + exp2f(sink - top));
    }
    if (!live[r]) continue;
#pragma unroll
    for (int n = 0; n < D / 8; ++n)
      *reinterpret_cast<uint32_t*>(static_cast<T*>(a.out) + row_offset[r] + 8 * n + 2 * c) =
          pack2<T>(o[n][2 * r] * factor, o[n][2 * r + 1] * factor);
  }
}

Verdict supports(const AttentionArgs& a) {
  if (!on_gpu(a.q)) return {"the tensors are not on a CUDA device"};
  if (!is_16_bit(a.q.dtype)) return {"queries are not BF16 or F16"};
  if (a.cache.k.dtype != a.q.dtype && a.cache.k.dtype != DType::kF8E4M3) return {"the cache is neither of the queries' type nor E4M3"};
  if (a.q.dim(2) != 64 && a.q.dim(2) != 128) return {"the head dimension is not 64 or 128"};
  if (a.q.dim(1) % a.cache.k.dim(1) != 0) return {"query heads are not a multiple of kv heads"};
  return kAccepted;
}

void run(const AttentionArgs& a, Stream& stream) {
  int64_t batch = a.context.dim(0), q_heads = a.q.dim(1), kv_heads = a.cache.k.dim(1), head_dim = a.q.dim(2);
  if (batch == 0 || a.max_queries == 0) return;
  FlashArgs f{a.q.data,
              a.cache.k.data,
              a.cache.v.data,
              a.page_table.i32(),
              a.query_start.i32(),
              a.context.i32(),
              {a.sinks.data, a.sinks.dtype},
              a.out.data,
              static_cast<int>(q_heads),
              static_cast<int>(kv_heads),
              static_cast<int>(a.cache.page_size()),
              static_cast<int>(a.page_table.dim(1)),
              static_cast<int>(a.window),
              a.scale * kLog2e};
  int64_t tiles = ceil_div(a.max_queries * (q_heads / kv_heads), kRows);
  int64_t smem = 4 * kKeys * head_dim * 2;
  dispatch_16_bit(a.q.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    auto kernel = head_dim == 64 ? attention_flash<T, T, 64> : attention_flash<T, T, 128>;
    if (a.cache.k.dtype == DType::kF8E4M3)
      kernel = head_dim == 64 ? attention_flash<T, uint8_t, 64> : attention_flash<T, uint8_t, 128>;
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(smem)), "shared memory");
    launch("attention", kernel, dim3(tiles, kv_heads, batch), dim3(32 * kWarps), smem, stream, f);
  });
}

}  // namespace

KernelRow<AttentionArgs> attention_flash_row() {
  return {"attention_flash_16bit", DeviceType::kCuda, "mma.sync, any number of queries", supports, nullptr, run, true};
}

}  // namespace tessera::cuda
