// Mixture of experts on MXFP4 atoms for many tokens, Hopper: grouped GEMM with wgmma, weights as the A operand decoded from
// 4 bits in registers, tokens as columns (up to 128 a tile), one persistent tile scheduler over experts.
//   route:  pairs sorted by expert (stable), each expert's rows padded to 8.
//   gather: x rows into B tiles [K/64][rows][64], columns permuted inside each 32 as atoms want, 128-byte swizzle.
//   gate_up, down: 6 or 3 consumer warpgroups of 64 rows share a B tile; a producer warp keeps a ring of bulk copies full.
//   combine: sums of each token in slot order.
// All orders are fixed, so results repeat bit for bit.
#include <algorithm>

#include "kernels/cuda/device/atom_mma.cuh"
#include "kernels/cuda/device/ptx.cuh"
#include "kernels/cuda/device/scan.cuh"
#include "kernels/cuda/device/swiglu.cuh"
#include "kernels/cuda/device/value.cuh"
#include "kernels/cuda/device/wgmma.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/moe_combine.h"
#include "kernels/cuda/rows.h"

namespace tessera::cuda {
namespace {

using bf16 = __nv_bfloat16;
constexpr int kMaxExperts = 256;
constexpr int kOutPitch = 80;

// How a tile of kTokens columns goes through shared memory to kConsumers warpgroups of a strip each: a ring of stages, each of
// kDeep steps of 64 columns of K. Few tokens: a step is short work, so that some share a barrier and the copies are longer.
template <int kConsumers, int kTokens>
struct Plan {
  static constexpr int kDeep = kTokens > 64 ? 1 : kConsumers == 6 ? 2 : 3;
  static constexpr int kSteps = kDeep == 1 ? 2 : kDeep;  // of the loop's body, each with fragments of its own
  static constexpr int kTokenBytes = kTokens * 128;  // of a step
  static constexpr int kStageBytes = (kDeep * (kTokenBytes + kConsumers * static_cast<int>(kAtomBytes)) + 1023) / 1024 * 1024;
  static constexpr int kOutBytes = kTokens * kOutPitch;  // a warpgroup's result on its way out
  static constexpr int kStages = kConsumers == 6 ? 6 : kTokens <= 64 ? 4 : 8;
  static constexpr int kSmemBytes = kStages * kStageBytes + kConsumers * kOutBytes + 1024;
  static constexpr int kRegisters = kConsumers == 6 ? 80 : 160;  // of a consumer's thread; a producer's has 24
  static_assert(kSmemBytes <= 227 * 1024);
  static_assert(128 * (kConsumers * kRegisters + 24) <= 65536);
};

// Sorted rows of the step. Expert e owns rows [start[e], start[e] + count[e]) of the tiles; start is a multiple of 8.
struct Routes {
  int* start;   // [E]
  int* count;   // [E]
  int* pairs;   // [rows]: pair of a sorted row, -1 in padding
  int rows;     // capacity: T * A + 7 * E, rounded up to 8
  int experts;
  int first_expert;  // ids count from here
};

// Grid: E blocks of 256 threads. Every block counts all pairs, then places its own expert's in pair order.
__global__ void __launch_bounds__(256) moe_route(const int32_t* indices, int pairs, Routes r) {
  wait_for_previous_grid();
  allow_next_grid();
  __shared__ int histogram[kMaxExperts];
  __shared__ int warp_total[8];
  __shared__ int begin_shared;
  int tid = threadIdx.x, warp = tid / 32, lane = tid % 32, mine = blockIdx.x;
  histogram[tid] = 0;
  __syncthreads();
  for (int i = tid; i < pairs; i += 256) {
    int e = indices[i] - r.first_expert;
    if (e >= 0 && e < r.experts) atomicAdd(&histogram[e], 1);
  }
  __syncthreads();
  if (warp == 0) {
    int sum = 0;
    for (int e = lane; e < mine; e += 32) sum += (histogram[e] + 7) / 8 * 8;
    for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    if (lane == 0) {
      begin_shared = sum;
      r.start[mine] = sum;
      r.count[mine] = histogram[mine];
    }
  }
  __syncthreads();
  int at = begin_shared;
  for (int base = 0; base < pairs; base += 256) {
    bool own = base + tid < pairs && indices[base + tid] - r.first_expert == mine;
    uint32_t mask = __ballot_sync(0xffffffffu, own);
    if (lane == 0) warp_total[warp] = __popc(mask);
    __syncthreads();
    int before = 0, all = 0;
    for (int w = 0; w < 8; ++w) {
      before += w < warp ? warp_total[w] : 0;
      all += warp_total[w];
    }
    if (own) r.pairs[at + before + __popc(mask & ((1u << lane) - 1))] = base + tid;
    at += all;
    __syncthreads();
  }
  int padding = (8 - histogram[mine] % 8) % 8;
  if (tid < padding) r.pairs[at + tid] = -1;
}

// Byte offset of 16-byte piece `piece` of `row` in atom column `atom` of B tiles.
__device__ __forceinline__ int64_t tile_offset(int64_t atom, int64_t rows, int64_t row, int piece) {
  return (atom * rows + row) * 128 + ((piece ^ (static_cast<int>(row) & 7)) * 16);
}

// A thread moves 32 columns of a row. Word i of source piece c goes to word c of target piece i: the order in which an
// atom's fragments meet columns.
__global__ void __launch_bounds__(128) moe_gather(const bf16* x, int active, int k, Routes r, uint8_t* tiles) {
  wait_for_previous_grid();
  allow_next_grid();
  int row = blockIdx.x;
  int last = r.experts - 1;
  if (row >= r.start[last] + r.count[last]) return;
  int pair = r.pairs[row];
  if (pair < 0) return;
  const uint4* from = reinterpret_cast<const uint4*>(x + static_cast<int64_t>(pair / active) * k);
  for (int block = threadIdx.x; block < k / 32; block += blockDim.x) {
    uint4 v[4];
#pragma unroll
    for (int c = 0; c < 4; ++c) v[c] = from[4 * block + c];
    uint8_t* to = tiles;
    int piece = block % 2 * 4;
    *reinterpret_cast<uint4*>(to + tile_offset(block / 2, r.rows, row, piece)) = make_uint4(v[0].x, v[1].x, v[2].x, v[3].x);
    *reinterpret_cast<uint4*>(to + tile_offset(block / 2, r.rows, row, piece + 1)) = make_uint4(v[0].y, v[1].y, v[2].y, v[3].y);
    *reinterpret_cast<uint4*>(to + tile_offset(block / 2, r.rows, row, piece + 2)) = make_uint4(v[0].z, v[1].z, v[2].z, v[3].z);
    *reinterpret_cast<uint4*>(to + tile_offset(block / 2, r.rows, row, piece + 3)) = make_uint4(v[0].w, v[1].w, v[2].w, v[3].w);
  }
}

struct GroupedArgs {
  const uint8_t* atoms;  // [E, strips, k_atoms]
  int strips;
  int k_atoms;
  const uint8_t* tiles;  // B tiles of this product's input
  AnyVector bias;        // gate_up only
  float limit;
  uint8_t* out_tiles;  // gate_up: B tiles of the next product
  float* out;          // down: F32 [T * A, H]
  Routes routes;
};

// What a tile is: columns [first, first + columns) of an expert, a row strip a consumer.
struct Tile {
  int expert;
  int first;    // sorted row
  int columns;  // tokens that count
  int padded;   // rounded up to 8
  int strip;
};

// Walks tiles blockIdx.x, + gridDim.x, ...; row strips vary fastest, so that the blocks of a wave share activations and
// an expert's weights are read once.
class Walk {
 public:
  __device__ Walk(const int* tiles_before, const Routes& routes, int strips, int consumers, int tile_tokens)
      : before_(tiles_before), routes_(routes), row_tiles_((strips + consumers - 1) / consumers), consumers_(consumers), tile_tokens_(tile_tokens), id_(blockIdx.x) {}
  __device__ bool next(Tile& t) {
    int column_tile = id_ / row_tiles_;
    if (column_tile >= before_[routes_.experts]) return false;
    while (before_[expert_ + 1] <= column_tile) ++expert_;
    int count = __ldcg(&routes_.count[expert_]);
    int begin = (column_tile - before_[expert_]) * tile_tokens_;
    t.expert = expert_;
    t.first = __ldcg(&routes_.start[expert_]) + begin;
    t.columns = min(tile_tokens_, count - begin);
    t.padded = (t.columns + 7) / 8 * 8;
    t.strip = id_ % row_tiles_ * consumers_;
    id_ += gridDim.x;
    return true;
  }

 private:
  const int* before_;  // [E + 1]: column tiles of the experts before
  Routes routes_;
  int row_tiles_;
  int consumers_;
  int tile_tokens_;
  int id_;
  int expert_ = 0;
};

template <class P>
struct Ring {
  uint32_t stages;  // shared-memory address of stage 0
  uint32_t full;    // of kStages barriers
  uint32_t empty;
  int stage = 0;
  uint32_t phase = 0;
  // Of the stage: the steps' tokens lie there, then each strip's atoms.
  __device__ uint32_t address() const { return stages + stage * P::kStageBytes; }
  __device__ void advance() {
    if (++stage == P::kStages) stage = 0, phase ^= 1;
  }
};

// One warp. Lane s copies strip s's atoms, which are consecutive; lane 8 + i the tokens of step i. The first stages get their
// atoms before the grid that makes the tokens has ended.
template <int kConsumers, class P>
__device__ void produce(const GroupedArgs& a, Walk walk, Ring<P> ring) {
  const int lane = threadIdx.x % 32;
  auto copy_atoms = [&](const Tile& t, int k, const Ring<P>& to) {
    const int steps = min(P::kDeep, a.k_atoms - k), strips = min(kConsumers, a.strips - t.strip);
    const uint32_t full = to.full + 8 * to.stage;
    if (lane == 0) mbarrier_expect(full, steps * (t.padded * 128 + strips * static_cast<int>(kAtomBytes)));
    __syncwarp();
    if (lane < strips)
      bulk_copy(to.address() + P::kDeep * (P::kTokenBytes + lane * static_cast<int>(kAtomBytes)),
                a.atoms + ((static_cast<int64_t>(t.expert) * a.strips + t.strip + lane) * a.k_atoms + k) * kAtomBytes, steps * kAtomBytes,
                full);
  };
  Tile t;
  int early = 0;  // stages whose atoms are on their way
  Walk ahead = walk;
  Ring<P> to = ring;
  while (early < P::kStages && ahead.next(t))
    for (int k = 0; k < a.k_atoms && early < P::kStages; k += P::kDeep, ++early, to.advance()) copy_atoms(t, k, to);
  wait_for_previous_grid();
  fence_async_proxy();  // tiles were written by ordinary stores
  while (walk.next(t)) {
    for (int k = 0; k < a.k_atoms; k += P::kDeep) {
      if (early > 0) {
        --early;
      } else {
        if (lane == 0) mbarrier_wait(ring.empty + 8 * ring.stage, ring.phase ^ 1);
        copy_atoms(t, k, ring);
      }
      if (lane >= 8 && lane < 8 + min(P::kDeep, a.k_atoms - k))
        bulk_copy(ring.address() + (lane - 8) * P::kTokenBytes, a.tiles + (static_cast<int64_t>(k + lane - 8) * a.routes.rows + t.first) * 128,
                  t.padded * 128, ring.full + 8 * ring.stage);
      ring.advance();
    }
  }
}

// The atom kAt bytes behind those addresses.
template <int kAt>
__device__ __forceinline__ void decode_atom(uint32_t (&f)[16], uint32_t value_address, uint32_t scale_address) {
  uint4 w;
  uint32_t scales;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4+%5];"
               : "=r"(w.x), "=r"(w.y), "=r"(w.z), "=r"(w.w)
               : "r"(value_address), "n"(kAt));
  asm volatile("ld.shared.u32 %0, [%1+%2];" : "=r"(scales) : "r"(scale_address), "n"(kAt));
  uint32_t words[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    uint32_t even = atom_multiplier(scales, j / 2 * 2), odd = atom_multiplier(scales, j / 2 * 2 + 1);
#pragma unroll
    for (int p = 0; p < 4; ++p) f[4 * j + p] = mul_bf16x2(fragment_bits(words[j], p), p & 1 ? odd : even);
  }
}

// tokens: the low word of a descriptor; sums do not carry into the high one.
template <int kUsed, int kPiece, int kPieces>
__device__ __forceinline__ void issue(float (&acc)[kPieces][kPiece / 2], const uint32_t (&f)[16], uint32_t tokens) {
  wgmma_fence();
#pragma unroll
  for (int q = 0; q < kUsed; ++q)
#pragma unroll
    for (int j = 0; j < 4; ++j)
      Wgmma<kPiece>::run(acc[q], f[4 * j], f[4 * j + 1], f[4 * j + 2], f[4 * j + 3], swizzled_descriptor_of(tokens + 8 * q * kPiece + 2 * j));
  wgmma_commit();
}

__device__ __forceinline__ void keep(uint32_t (&f)[16]) {
#pragma unroll
  for (int i = 0; i < 16; ++i) asm volatile("" : "+r"(f[i]));
}

// The value stays in a register. Left alone, the compiler computes addresses anew at each use, a third of a step's instructions.
__device__ __forceinline__ uint32_t pinned(uint32_t v) {
  asm volatile("" : "+r"(v));
  return v;
}

// The products of one tile, its first kUsed pieces of columns. A set of fragments is rewritten only after the product that
// reads it has finished.
template <int kUsed, int kPiece, int kPieces, class P>
__device__ __forceinline__ void multiply(float (&acc)[kPieces][kPiece / 2], int k_atoms, Ring<P>& ring, int group) {
  const int thread = threadIdx.x % 128, warp = thread / 32, g = thread % 32 / 4;
  const bool speaks = thread % 32 == 0;
  const uint32_t strip_at = P::kDeep * (P::kTokenBytes + group * static_cast<int>(kAtomBytes));
  const uint32_t value_at = pinned(strip_at + thread * 16), scale_at = pinned(strip_at + kAtomValueBytes + warp * 32 + g * 4);
  uint32_t f[P::kSteps][16] = {};
  uint32_t stage = 0, tokens = 0;  // the stage's address and its descriptor
  int previous = -1, current = -1;
  auto enter = [&] {
    mbarrier_wait(ring.full + 8 * ring.stage, ring.phase);
    stage = ring.address();
    tokens = swizzled_descriptor_low(stage);
    current = ring.stage;
    ring.advance();
  };
  auto leave = [&] {  // once no product reads the stage before
    if (previous >= 0 && speaks) mbarrier_arrive(ring.empty + 8 * previous);
    previous = current;
  };
  const int whole = k_atoms / P::kSteps * P::kSteps;
  for (int k = 0; k < whole; k += P::kSteps) {
    unrolled<P::kSteps>([&](auto step) {
      constexpr int i = step, inside = i % P::kDeep;
      if constexpr (inside == 0) enter();
      decode_atom<inside * static_cast<int>(kAtomBytes)>(f[i], stage + value_at, stage + scale_at);
      issue<kUsed, kPiece, kPieces>(acc, f[i], tokens + inside * P::kTokenBytes / 16);
      wgmma_wait<1>();
      keep(f[(i + P::kSteps - 1) % P::kSteps]);
      if constexpr (inside == 0) leave();
    });
  }
  wgmma_wait<0>();
#pragma unroll
  for (int i = 0; i < P::kSteps; ++i) keep(f[i]);
  for (int k = whole; k < k_atoms; ++k) {
    const int inside = (k - whole) % P::kDeep;
    if (inside == 0) enter();
    decode_atom<0>(f[0], stage + value_at + inside * kAtomBytes, stage + scale_at + inside * kAtomBytes);
    issue<kUsed, kPiece, kPieces>(acc, f[0], tokens + inside * P::kTokenBytes / 16);
    wgmma_wait<0>();
    keep(f[0]);
    if (inside == 0) leave();
  }
#pragma unroll
  for (int q = 0; q < kUsed; ++q)
#pragma unroll
    for (int i = 0; i < kPiece / 2; ++i) asm volatile("" : "+f"(acc[q][i]));
  if (speaks) mbarrier_arrive(ring.empty + 8 * previous);
}

// One tile by one warpgroup. Columns come in kPieces pieces of kPiece, of which the first `pieces` hold tokens.
template <bool kGateUp, int kPiece, int kPieces, class P>
__device__ __forceinline__ void consume_tile(const GroupedArgs& a, const Tile& t, Ring<P>& ring, int group, unsigned char* staging) {
  int thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32, g = lane / 4, c = lane % 4;
  float acc[kPieces][kPiece / 2];
#pragma unroll
  for (int q = 0; q < kPieces; ++q)
#pragma unroll
    for (int i = 0; i < kPiece / 2; ++i) acc[q][i] = 0.0f;
  if (kPieces == 1 || t.padded <= kPiece) {
    multiply<1, kPiece, kPieces>(acc, a.k_atoms, ring, group);
  } else {
    multiply<kPieces, kPiece, kPieces>(acc, a.k_atoms, ring, group);
  }
  int strip = t.strip + group;
  if (strip >= a.strips) return;
  int row = strip * 64 + warp * 16 + 2 * g;
  if constexpr (kGateUp) {
    int64_t bias_row = static_cast<int64_t>(t.expert) * a.strips * 64 + row;
    float bias_even = a.bias.at(bias_row), bias_odd = a.bias.at(bias_row + 1);
    named_barrier(1 + group, 128);  // the last tile's copy out of `staging` is over
#pragma unroll
    for (int n = 0; n < kPiece * kPieces / 8; ++n) {
      if (8 * n >= t.padded) break;
      const float* v = &acc[n / (kPiece / 8)][n % (kPiece / 8) * 4];
      float v0 = swiglu_oai(v[0] + bias_even, v[2] + bias_odd, a.limit);
      float v1 = swiglu_oai(v[1] + bias_even, v[3] + bias_odd, a.limit);
      // Lanes of even and odd g swap, so that each holds two neighbouring units of one token.
      bool even = g % 2 == 0;
      float other = __shfl_xor_sync(0xffffffffu, even ? v1 : v0, 4);
      uint32_t word = even ? pack2<bf16>(v0, other) : pack2<bf16>(other, v1);
      int token = 8 * n + 2 * c + (even ? 0 : 1);
      *reinterpret_cast<uint32_t*>(staging + token * kOutPitch + g / 2 * 16 + warp * 4) = word;
    }
    named_barrier(1 + group, 128);
    for (int i = thread; i < t.columns * 4; i += 128) {
      int token = i / 4, piece = i % 4;
      uint4 v = *reinterpret_cast<const uint4*>(staging + token * kOutPitch + piece * 16);
      *reinterpret_cast<uint4*>(a.out_tiles + tile_offset(strip / 2, a.routes.rows, t.first + token, strip % 2 * 4 + piece)) = v;
    }
  } else {
#pragma unroll
    for (int n = 0; n < kPiece * kPieces / 8; ++n)
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float* v = &acc[n / (kPiece / 8)][n % (kPiece / 8) * 4];
        int token = 8 * n + 2 * c + j;
        if (token >= t.columns) continue;
        int64_t pair = __ldcg(&a.routes.pairs[t.first + token]);
        *reinterpret_cast<float2*>(a.out + pair * a.strips * 64 + row) = make_float2(v[j], v[2 + j]);
      }
  }
}

template <bool kGateUp, int kConsumers, int kPiece, int kPieces>
__global__ void __launch_bounds__(128 * (kConsumers + 1), 1) moe_grouped_sm90(GroupedArgs a) {
  using P = Plan<kConsumers, kPiece * kPieces>;
  extern __shared__ unsigned char dynamic[];
  __shared__ __align__(8) uint64_t barriers[2 * P::kStages];
  __shared__ int tiles_before[kMaxExperts + 1];
  int group = threadIdx.x / 128;
  unsigned char* aligned = dynamic + (1024 - smem_address(dynamic) % 1024) % 1024;
  Ring<P> ring{pinned(smem_address(aligned)), pinned(smem_address(barriers)), pinned(smem_address(barriers + P::kStages))};
  if (threadIdx.x == 0) {
    for (int i = 0; i < P::kStages; ++i) {
      mbarrier_init(ring.full + 8 * i, 1);
      mbarrier_init(ring.empty + 8 * i, 4 * kConsumers);  // one arrival a warp: its own reads are over
    }
    mbarrier_init_fence();
  }
  // Routes are complete: gather lets gate_up start only after its own wait for them, and gate_up lets down start later
  // still. They are read past L1, which nothing here has told of their change.
  allow_next_grid();
  if (threadIdx.x < 32) {
    int lane = threadIdx.x, base = 0;
    if (lane == 0) tiles_before[0] = 0;
    for (int e0 = 0; e0 < a.routes.experts; e0 += 32) {
      int v = warp_scan(e0 + lane < a.routes.experts ? (__ldcg(&a.routes.count[e0 + lane]) + kPiece * kPieces - 1) / (kPiece * kPieces) : 0);
      if (e0 + lane < a.routes.experts) tiles_before[e0 + lane + 1] = base + v;
      base += __shfl_sync(0xffffffffu, v, 31);
    }
  }
  __syncthreads();
  Walk walk(tiles_before, a.routes, a.strips, kConsumers, kPiece * kPieces);
  if (group == kConsumers) {
    shrink_registers<24>();
    if (threadIdx.x / 32 == kConsumers * 4) produce<kConsumers>(a, walk, ring);
  } else {
    grow_registers<P::kRegisters>();
    unsigned char* staging = aligned + P::kStages * P::kStageBytes + group * P::kOutBytes;
    Tile t;
    while (walk.next(t)) consume_tile<kGateUp, kPiece, kPieces>(a, t, ring, group, staging);
  }
}

struct Layout {
  int64_t tokens, active, experts, hidden, inner, rows;
  int64_t routes_bytes, inner_bytes, wide_bytes;
};

int64_t round_up(int64_t bytes) { return ceil_div(bytes, 1024) * 1024; }

Layout layout_of(const MoeArgs& a) {
  Layout l{a.x.dim(0), a.indices.dim(1), a.gate_up.experts, a.x.dim(1), a.down.k};
  int64_t pairs = l.tokens * l.active;
  l.rows = ceil_div(pairs + 7 * l.experts, 8) * 8;
  l.routes_bytes = round_up((2 * l.experts + l.rows) * 4);
  l.inner_bytes = round_up(l.rows * l.inner * 2);
  // The gathered input is dead when the down product writes its F32 rows over it.
  int64_t gathered = l.rows * l.hidden * 2, results = pairs * l.hidden * 4;
  l.wide_bytes = round_up(gathered > results ? gathered : results);
  return l;
}

Verdict supports(const MoeArgs& a) {
  if (!on_gpu(a.x)) return {"the tensors are not on a CUDA device"};
  if (a.x.dtype != DType::kBF16) return {"activations are not BF16"};
  if (a.gate_up.format != WeightFormat::kMxfp4Atoms || a.down.format != WeightFormat::kMxfp4Atoms)
    return {"weights are not MXFP4 atoms"};
  if (a.activation != MoeActivation::kSwigluOai) return {"the activation is not gpt-oss's SwiGLU"};
  if (a.gate_up.experts > kMaxExperts) return {"more than 256 experts"};
  return kAccepted;
}

int64_t workspace(const MoeArgs& a) {
  Layout l = layout_of(a);
  return l.routes_bytes + l.inner_bytes + l.wide_bytes;
}

template <bool kGateUp, int kConsumers, int kPiece, int kPieces>
void launch_tiles(const GroupedArgs& g, Stream& stream) {
  auto kernel = moe_grouped_sm90<kGateUp, kConsumers, kPiece, kPieces>;
  constexpr int kSmem = Plan<kConsumers, kPiece * kPieces>::kSmemBytes;
  allow_smem(kernel, kSmem);
  launch(kGateUp ? "moe gate_up" : "moe down", kernel, dim3(multiprocessors()), dim3(128 * (kConsumers + 1)), kSmem, stream, g);
}

// `load`: tokens an expert sees on average; `reached`: experts that see one, at most.
template <bool kGateUp>
void launch_grouped(const GroupedArgs& g, int64_t load, int64_t reached, Stream& stream) {
  const bool fills_chip = reached * ceil_div(g.strips, 6) >= multiprocessors();
  if (load <= 24 && fills_chip) {
    launch_tiles<kGateUp, 6, 32, 1>(g, stream);
  } else if (load <= 40) {
    launch_tiles<kGateUp, 3, 32, 2>(g, stream);
  } else if (load <= 88) {
    launch_tiles<kGateUp, 3, 96, 1>(g, stream);
  } else {
    launch_tiles<kGateUp, 3, 128, 1>(g, stream);
  }
}

// peers: those who get the results as well.
void run_into(const MoeArgs& a, const Tensor& residual, Stream& stream, const PeerView* peers = nullptr) {
  Layout l = layout_of(a);
  if (l.tokens == 0) return;
  char* scratch = static_cast<char*>(stream.workspace);
  int* ints = reinterpret_cast<int*>(scratch);
  Routes routes{ints, ints + l.experts, ints + 2 * l.experts, static_cast<int>(l.rows), static_cast<int>(l.experts),
                static_cast<int>(a.first_expert)};
  auto* inner = reinterpret_cast<uint8_t*>(scratch + l.routes_bytes);
  auto* wide = inner + l.inner_bytes;
  launch("moe route", moe_route, dim3(l.experts), dim3(256), 0, stream, a.indices.i32(), static_cast<int>(l.tokens * l.active),
         routes);
  launch("moe gather", moe_gather, dim3(l.rows), dim3(128), 0, stream, a.x.as<bf16>(), static_cast<int>(l.active),
         static_cast<int>(l.hidden), routes, wide);
  GroupedArgs g{a.gate_up.values.as<uint8_t>(),
                static_cast<int>(a.gate_up.n / kAtomRows),
                static_cast<int>(l.hidden / kAtomColumns),
                wide,
                {a.gate_up_bias.data, a.gate_up_bias.dtype},
                a.limit,
                inner,
                nullptr,
                routes};
  const int64_t load = tokens_an_expert(a);
  const int64_t reached = std::min(l.tokens * l.active, l.experts);
  launch_grouped<true>(g, load, reached, stream);
  g.atoms = a.down.values.as<uint8_t>();
  g.strips = static_cast<int>(l.hidden / kAtomRows);
  g.k_atoms = static_cast<int>(l.inner / kAtomColumns);
  g.tiles = inner;
  g.out = reinterpret_cast<float*>(wide);
  launch_grouped<false>(g, load, reached, stream);
  moe_combine(a, residual, reinterpret_cast<float*>(wide), stream, peers);
}

void run(const MoeArgs& a, Stream& stream) { run_into(a, {}, stream); }

Verdict supports_send(const MoeSendArgs& a) {
  if (Verdict v = supports(a.moe); !v) return v;
  return fits_packets(a);
}

}  // namespace

KernelRow<MoeArgs> moe_bf16_mxfp4_sm90_row() {
  return {"moe_bf16_mxfp4_sm90", DeviceType::kCuda, "MXFP4 atoms, wgmma grouped GEMM, any number of tokens", supports, workspace,
          run};
}

KernelRow<MoeSendArgs> moe_send_bf16_mxfp4_sm90_row() {
  return {"moe_send_bf16_mxfp4_sm90", DeviceType::kCuda, "the same, whose results go to the other ranks as well", supports_send,
          [](const MoeSendArgs& a) { return workspace(a.moe); },
          [](const MoeSendArgs& a, Stream& stream) { run_into(a.moe, {}, stream, peer_view(a.communicator)); }};
}

KernelRow<MoeAddArgs> moe_add_bf16_mxfp4_sm90_row() {
  return {"moe_add_bf16_mxfp4_sm90", DeviceType::kCuda, "the same, added to the residual", [](const MoeAddArgs& a) { return supports(a.moe); },
          [](const MoeAddArgs& a) { return workspace(a.moe); },
          [](const MoeAddArgs& a, Stream& stream) { run_into(a.moe, a.residual, stream); }};
}

}  // namespace tessera::cuda
