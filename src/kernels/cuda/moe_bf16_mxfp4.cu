// Mixture of experts on MXFP4 atoms for few tokens: bound by weight reads. A warp takes 16 rows of one expert over all
// of K (or half of it), weights as the A operand of mma.sync straight from 16-byte global loads, up to 16 of the
// expert's (token, slot) pairs as its columns. Expert ids are read on the device. All sums have a fixed order.
#include <algorithm>

#include "kernels/cuda/device/atom_mma.cuh"
#include "kernels/cuda/device/peer.cuh"
#include "kernels/cuda/device/swiglu.cuh"
#include "kernels/cuda/device/value.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/moe_combine.h"
#include "kernels/cuda/rows.h"

namespace tessera::cuda {
namespace {

using bf16 = __nv_bfloat16;
constexpr int kMaxTokens = 512;
constexpr int kMaxExperts = 256;
constexpr int kSingleActive = 4;  // experts a token, at most, of the one-token kernels
// Those kernels' blocks are all resident at once, so that nobody's first load waits for another block's end: 24 warps a
// multiprocessor, each with up to 80 registers a thread (left alone, the compiler takes 250).
constexpr int kResidentWarps = 24;
constexpr int kDownShares = 3;

struct GroupedArgs {
  const int32_t* indices;  // [T, A]
  int pairs;               // T * A
  int active;              // A
  int first_expert;        // ids count from here
  int experts;             // E of this rank; others are left out
  const uint8_t* atoms;
  int k_atoms;
  const bf16* x;  // [T, K] (gate_up) or [T * A, K] (down)
  AnyVector bias;
  float limit;
  void* out;  // gate_up: bf16 [T * A, I]; down: F32 [T * A, H], without bias and weight
};

// The group-th distinct expert of the step in index order, and its pairs in order. Returns the number of pairs; 0 when
// there are fewer distinct experts. Called by all threads of the block.
__device__ int find_group(const GroupedArgs& a, int group, int& expert, int* list) {
  const int32_t* indices = a.indices;
  int pairs = a.pairs;
  __shared__ uint32_t used[kMaxExperts / 32];
  __shared__ int found[2];
  int tid = threadIdx.x;
  if (tid < kMaxExperts / 32) used[tid] = 0;
  __syncthreads();
  for (int i = tid; i < pairs; i += blockDim.x) {
    int e = indices[i] - a.first_expert;
    if (e >= 0 && e < a.experts) atomicOr(&used[e >> 5], 1u << (e & 31));
  }
  __syncthreads();
  if (tid < 32) {
    int chosen = -1;
    int rank = group;
    for (int word = 0; word < kMaxExperts / 32; ++word) {
      uint32_t bits = used[word];
      int count = __popc(bits);
      if (rank < count) {
        for (int i = 0; i < rank; ++i) bits &= bits - 1;
        chosen = word * 32 + __ffs(bits) - 1;
        break;
      }
      rank -= count;
    }
    int total = 0;
    if (chosen >= 0) {
      for (int base = 0; base < pairs; base += 32) {
        bool mine = base + tid < pairs && indices[base + tid] - a.first_expert == chosen;
        uint32_t mask = __ballot_sync(0xffffffffu, mine);
        int slot = total + __popc(mask & ((1u << tid) - 1));
        if (mine && slot < kMaxTokens) list[slot] = base + tid;
        total = min(total + __popc(mask), kMaxTokens);
      }
    }
    if (tid == 0) {
      found[0] = chosen;
      found[1] = total;
    }
  }
  __syncthreads();
  expert = found[0];
  return found[1];
}

struct GroupView {
  int expert;
  int count;
  const int* list;  // pairs of the group
  __device__ int at(int position) const { return list[position]; }
};

// Pairs [first, first + 8 * kTiles) of a group against one strip of 64 rows.
template <bool kGateUp, int kTiles, int kDepth>
__device__ __forceinline__ void run_strip(const GroupedArgs& a, const GroupView& group, int first) {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
  int k = a.k_atoms * static_cast<int>(kAtomColumns);
  int strips = gridDim.x;
  const uint8_t* strip = a.atoms + (static_cast<int64_t>(group.expert) * strips + blockIdx.x) * a.k_atoms * kAtomBytes;
  int row = blockIdx.x * 64 + warp * 16 + 2 * g;
  int64_t bias_row = static_cast<int64_t>(group.expert) * strips * 64 + row;
  float bias_even = 0.0f, bias_odd = 0.0f;
  const bf16* x[kTiles];
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
    int pair = group.at(min(first + t * 8 + g, group.count - 1));
    x[t] = a.x + static_cast<int64_t>(kGateUp ? pair / a.active : pair) * k + 8 * c;
  }
  float acc[kTiles][4];
  run_atoms<kTiles, kDepth>(acc, strip + warp * 512 + lane * 16, strip + kAtomValueBytes + warp * 32 + g * 4, a.k_atoms, x, [&] {
    bias_even = a.bias.at(bias_row);
    bias_odd = a.bias.at(bias_row + 1);
    int rows = min(group.count - first, 8 * kTiles);
    for (int i = threadIdx.x; i < rows * a.k_atoms; i += 128) {
      int pair = group.at(first + i / a.k_atoms);
      touch(a.x + static_cast<int64_t>(kGateUp ? pair / a.active : pair) * k + i % a.k_atoms * 64);
    }
  });
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      int position = first + t * 8 + 2 * c + j;
      if (position >= group.count) continue;
      int64_t pair = group.at(position);
      float even = acc[t][j], odd = acc[t][2 + j];
      if constexpr (kGateUp) {
        static_cast<bf16*>(a.out)[pair * (strips * 32) + row / 2] =
            __float2bfloat16_rn(swiglu_oai(even + bias_even, odd + bias_odd, a.limit));
      } else {
        *reinterpret_cast<float2*>(static_cast<float*>(a.out) + pair * (strips * 64) + row) = make_float2(even, odd);
      }
    }
  }
}

// Block: 4 warps, one strip of 64 rows of the group's expert. Grid: (strips, groups). With kWide, groups of more than 8
// pairs take 16 columns at a time.
template <bool kGateUp, bool kWide>
__global__ void __launch_bounds__(128, 4) moe_grouped(GroupedArgs a) {
  wait_for_previous_grid();
  allow_next_grid();
  __shared__ int list[kMaxTokens];
  GroupView group{0, 0, list};
  group.count = find_group(a, blockIdx.y, group.expert, list);
  int first = 0;
  if constexpr (kWide)
    for (; group.count - first > 8; first += 16) run_strip<kGateUp, 2, 8>(a, group, first);
  for (; first < group.count; first += 8) run_strip<kGateUp, 1, 9>(a, group, first);
}

// One token: a block owns 16 rows (8 units) of one of its experts, kWarps warps share K. Grid: (units / 8, A).
template <int kWarps>
__global__ void __launch_bounds__(32 * kWarps, kResidentWarps / kWarps) moe_gate_up_single(GroupedArgs a, int strips) {
  wait_for_previous_grid();
  allow_next_grid();
  __shared__ float partial[kWarps][16];
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
  int slot = blockIdx.y, expert = a.indices[slot] - a.first_expert;
  if (expert < 0 || expert >= a.experts) return;
  int begin = a.k_atoms * warp / kWarps, count = a.k_atoms * (warp + 1) / kWarps - begin;
  int quarter = blockIdx.x % 4;
  const uint8_t* base = a.atoms + ((static_cast<int64_t>(expert) * strips + blockIdx.x / 4) * a.k_atoms + begin) * kAtomBytes;
  const bf16* x[1] = {a.x + begin * kAtomColumns + 8 * c};
  float bias_even = 0.0f, bias_odd = 0.0f;
  float acc[1][4];
  run_atoms<1, 4>(acc, base + quarter * 512 + lane * 16, base + kAtomValueBytes + quarter * 32 + g * 4, count, x, [&] {
    for (int i = lane; i < count; i += 32) touch(a.x + (begin + i) * kAtomColumns);
    if (threadIdx.x < 8) {
      int64_t bias_row = static_cast<int64_t>(expert) * strips * 64 + blockIdx.x * 16 + 2 * threadIdx.x;
      bias_even = a.bias.at(bias_row);
      bias_odd = a.bias.at(bias_row + 1);
    }
  });
  if (c == 0) {
    partial[warp][2 * g] = acc[0][0];
    partial[warp][2 * g + 1] = acc[0][2];
  }
  __syncthreads();
  if (threadIdx.x < 8) {
    float gate = bias_even, up = bias_odd;
    for (int w = 0; w < kWarps; ++w) {
      gate += partial[w][2 * threadIdx.x];
      up += partial[w][2 * threadIdx.x + 1];
    }
    static_cast<bf16*>(a.out)[slot * strips * 32 + blockIdx.x * 8 + threadIdx.x] = __float2bfloat16_rn(swiglu_oai(gate, up, a.limit));
  }
}

struct SingleDownArgs {
  const int32_t* indices;  // [A]
  int first_expert, experts;
  const float* weights;    // [A]
  const uint8_t* atoms;
  int strips;
  int k_atoms;
  const bf16* x;  // [A, I]
  AnyVector bias;
  bf16* out;  // [H]
  bf16* residual;  // [H] or null: then it gets the sum added, and out nothing
};

// One token: a block owns 16 output rows for all A experts (kShares warps an expert, each a share of K) and adds in slot order.
// Ids and residual were complete before the previous grid (gate_up) allowed this one, so they are read before the wait, and
// weights are fetched: the first ones into registers, the rest into L2.
template <int kShares, int kDepth, bool kSend>
__global__ void __launch_bounds__(32 * kShares * kSingleActive, kResidentWarps / (kShares * kSingleActive))
    moe_down_single(SingleDownArgs a, PeerView peers) {
  __shared__ float partial[kSingleActive][kShares][16];
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
  int slot = warp / kShares, share = warp % kShares;
  int expert = a.indices[slot] - a.first_expert;
  bool here = expert >= 0 && expert < a.experts;
  if (!here) expert = 0;
  int begin = a.k_atoms * share / kShares, count = here ? a.k_atoms * (share + 1) / kShares - begin : 0;
  int strip = blockIdx.x / 4, quarter = blockIdx.x % 4;
  const uint8_t* base =
      a.atoms + ((static_cast<int64_t>(expert) * a.strips + strip) * a.k_atoms + begin) * kAtomBytes;
  int k = a.k_atoms * static_cast<int>(kAtomColumns);
  const bf16* x[1] = {a.x + slot * k + begin * kAtomColumns + 8 * c};
  float bias = 0.0f, weight = 0.0f, before = 0.0f;
  [[maybe_unused]] uint32_t call = 0;
  float acc[1][4] = {};
  run_atoms<1, kDepth>(acc, base + quarter * 512 + lane * 16, base + kAtomValueBytes + quarter * 32 + g * 4, count, x, [&] {
    // Lanes 4i..4i+3 take the four lines of an atom's 512 bytes.
    for (int i = lane; i < (count - kDepth) * 4; i += 32)
      prefetch_l2(base + (kDepth + i / 4) * kAtomBytes + quarter * 512 + i % 4 * 128);
    if (share == 0 && lane < 16) {
      bias = a.bias.at(static_cast<int64_t>(expert) * a.strips * 64 + blockIdx.x * 16 + lane);
      weight = here ? a.weights[slot] : 0.0f;
    }
    if (a.residual != nullptr && threadIdx.x < 16) before = to_float(a.residual[blockIdx.x * 16 + threadIdx.x]);
    allow_next_grid();
    wait_for_previous_grid();
    if constexpr (kSend) call = this_call(peers);
    if (lane < count) touch(a.x + slot * k + (begin + lane) * kAtomColumns);
  });
  if (c == 0) {
    partial[slot][share][2 * g] = acc[0][0];
    partial[slot][share][2 * g + 1] = acc[0][2];
  }
  __shared__ float term[kSingleActive][16];
  __syncthreads();
  if (share == 0 && lane < 16) {
    float value = bias;
    for (int i = 0; i < kShares; ++i) value += partial[slot][i][lane];
    term[slot][lane] = weight * value;
  }
  __syncthreads();
  if (threadIdx.x < 16) {
    float sum = 0.0f;
    for (int s = 0; s < static_cast<int>(blockDim.x / (32 * kShares)); ++s) sum += term[s][threadIdx.x];
    int row = blockIdx.x * 16 + threadIdx.x;
    bf16 rounded = __float2bfloat16_rn(sum);
    if constexpr (kSend) {  // four lanes hold four rows
      uint32_t own = __bfloat16_as_ushort(rounded), two = own | __shfl_down_sync(0xffffu, own, 1) << 16;
      uint32_t next = __shfl_down_sync(0xffffu, two, 2);
      if (threadIdx.x % 4 == 0) push_quad(peers, call, row, two, next);
    }
    if (a.residual == nullptr) {
      a.out[row] = rounded;
    } else {
      a.residual[row] = __float2bfloat16_rn(before + to_float(rounded));
    }
  }
}

struct Sizes {
  int64_t tokens, active, hidden, inner;
  int64_t pairs() const { return tokens * active; }
  bool single() const { return tokens == 1 && active <= kSingleActive; }
  int64_t inner_bytes() const { return ceil_div(pairs() * inner * 2, 256) * 256; }
};
Sizes sizes(const MoeArgs& a) { return {a.x.dim(0), a.indices.dim(1), a.x.dim(1), a.down.k}; }

Verdict supports_any_tokens(const MoeArgs& a) {
  if (!on_gpu(a.x)) return {"the tensors are not on a CUDA device"};
  if (a.x.dtype != DType::kBF16) return {"activations are not BF16"};
  if (a.gate_up.format != WeightFormat::kMxfp4Atoms || a.down.format != WeightFormat::kMxfp4Atoms)
    return {"weights are not MXFP4 atoms"};
  if (a.activation != MoeActivation::kSwigluOai) return {"the activation is not gpt-oss's SwiGLU"};
  if (a.indices.dim(1) > 8) return {"more than 8 active experts"};
  if (a.gate_up.experts > kMaxExperts) return {"more than 256 experts"};
  return kAccepted;
}

Verdict supports(const MoeArgs& a) {
  if (Verdict v = supports_any_tokens(a); !v) return v;
  Sizes s = sizes(a);
  // Beyond, many groups come in several rounds of 16 tokens, each of which reads the weights.
  if (s.tokens > 8 && s.pairs() > 8 * std::max(a.gate_up.experts, a.all_experts)) return {"more than 8 tokens an expert"};
  if (s.tokens > kMaxTokens) return {"more than 512 tokens"};
  return kAccepted;
}

int64_t workspace(const MoeArgs& a) {
  Sizes s = sizes(a);
  return s.inner_bytes() + (s.single() ? 0 : s.pairs() * s.hidden * 4);
}

AnyVector vector_of(const Tensor& t) { return {t.data, t.dtype}; }

void launch_gate_up_single(const GroupedArgs& up, int64_t strips, int64_t active, Stream& stream) {
  const int64_t blocks = strips * 4 * active;
  auto go = [&](auto* kernel, unsigned warps) {
    launch("moe gate_up", kernel, dim3(strips * 4, active), dim3(32 * warps), 0, stream, up, static_cast<int>(strips));
  };
  if (blocks * 4 <= int64_t{kResidentWarps} * multiprocessors()) return go(moe_gate_up_single<4>, 4);
  go(moe_gate_up_single<2>, 2);
}

template <bool kSend>
void launch_down_single(const SingleDownArgs& down, int64_t active, const PeerView& peers, Stream& stream) {
  // A rank's part of K may be in flight whole. More loads of a longer one only stand in gate_up's way.
  const bool whole = ceil_div(down.k_atoms, kDownShares) <= 8;
  launch("moe down", whole ? moe_down_single<kDownShares, 8, kSend> : moe_down_single<kDownShares, 4, kSend>, dim3(down.strips * 4),
         dim3(32 * kDownShares * active), 0, stream, down, peers);
}

template <bool kGateUp>
void launch_grouped(const GroupedArgs& g, int64_t strips, int64_t groups, bool wide, Stream& stream) {
  launch(kGateUp ? "moe gate_up" : "moe down", wide ? moe_grouped<kGateUp, true> : moe_grouped<kGateUp, false>,
         dim3(strips, groups), dim3(128), 0, stream, g);
}

void run_into(const MoeArgs& a, const Tensor& residual, bool single, Stream& stream, const PeerView* peers = nullptr) {
  Sizes s = sizes(a);
  if (s.tokens == 0) return;
  char* scratch = static_cast<char*>(stream.workspace);
  int64_t groups = s.pairs() < a.gate_up.experts ? s.pairs() : a.gate_up.experts;
  GroupedArgs up{a.indices.i32(), static_cast<int>(s.pairs()),
                 static_cast<int>(s.active), static_cast<int>(a.first_expert), static_cast<int>(a.gate_up.experts),
                 a.gate_up.values.as<uint8_t>(),
                 static_cast<int>(s.hidden / kAtomColumns), a.x.as<bf16>(),
                 vector_of(a.gate_up_bias), a.limit,
                 scratch};
  int64_t up_strips = a.gate_up.n / kAtomRows;
  int k_atoms = static_cast<int>(s.inner / kAtomColumns);
  if (single) {
    launch_gate_up_single(up, up_strips, s.active, stream);
    SingleDownArgs down{a.indices.i32(), up.first_expert, up.experts, a.weights.f32(), a.down.values.as<uint8_t>(),
                        static_cast<int>(s.hidden / kAtomRows), k_atoms,
                        reinterpret_cast<bf16*>(scratch), vector_of(a.down_bias), a.out.as<bf16>(),
                        residual.as<bf16>()};
    if (peers != nullptr) {
      launch_down_single<true>(down, s.active, *peers, stream);
    } else {
      launch_down_single<false>(down, s.active, {}, stream);
    }
    return;
  }
  float* y = reinterpret_cast<float*>(scratch + s.inner_bytes());
  GroupedArgs down = up;
  down.atoms = a.down.values.as<uint8_t>();
  down.k_atoms = k_atoms;
  down.x = reinterpret_cast<bf16*>(scratch);
  down.bias = {};
  down.out = y;
  int64_t down_strips = s.hidden / kAtomRows;
  bool wide = s.tokens > 8;
  launch_grouped<true>(up, up_strips, groups, wide, stream);
  launch_grouped<false>(down, down_strips, groups, wide, stream);
  moe_combine(a, residual, y, stream, peers);
}

void run(const MoeArgs& a, Stream& stream) { run_into(a, {}, sizes(a).single(), stream); }

// Any number of tokens, 512 at a time; one alone is computed as among others, bit by bit.
MoeArgs chunk_of(const MoeArgs& a, int64_t begin) {
  MoeArgs part = a;
  int64_t count = std::min<int64_t>(kMaxTokens, a.x.dim(0) - begin);
  part.x = a.x.rows(begin, count);
  part.indices = a.indices.rows(begin, count);
  part.weights = a.weights.rows(begin, count);
  part.out = a.out.rows(begin, count);
  return part;
}

int64_t chunks_workspace(const MoeArgs& a) {
  Sizes s = sizes(a);
  s.tokens = std::min<int64_t>(s.tokens, kMaxTokens);
  return s.inner_bytes() + s.pairs() * s.hidden * 4;
}

void run_chunks(const MoeArgs& a, const Tensor& residual, Stream& stream) {
  for (int64_t begin = 0; begin < a.x.dim(0); begin += kMaxTokens) {
    MoeArgs part = chunk_of(a, begin);
    run_into(part, residual.defined() ? residual.rows(begin, part.x.dim(0)) : residual, false, stream);
  }
}

Verdict supports_send(const MoeSendArgs& a) {
  if (Verdict v = supports(a.moe); !v) return v;
  return fits_packets(a);
}

}  // namespace

KernelRow<MoeSendArgs> moe_send_bf16_mxfp4_small_row() {
  return {"moe_send_bf16_mxfp4_small", DeviceType::kCuda, "moe_bf16_mxfp4_small, whose results go to the other ranks as well", supports_send,
          [](const MoeSendArgs& a) { return workspace(a.moe); },
          [](const MoeSendArgs& a, Stream& stream) {
            run_into(a.moe, {}, sizes(a.moe).single(), stream, peer_view(a.communicator));
          },
          true};
}

KernelRow<MoeArgs> moe_bf16_mxfp4_small_row() {
  return {"moe_bf16_mxfp4_small", DeviceType::kCuda, "MXFP4 atoms, mma.sync, bound by weight reads: up to 8 tokens an expert", supports,
          workspace, run, true};
}

KernelRow<MoeArgs> moe_bf16_mxfp4_chunks_row() {
  return {"moe_bf16_mxfp4_chunks", DeviceType::kCuda, "the same for any number of tokens: weights are read once for 16 of them",
          supports_any_tokens, chunks_workspace, [](const MoeArgs& a, Stream& stream) { run_chunks(a, {}, stream); }};
}

KernelRow<MoeAddArgs> moe_add_bf16_mxfp4_chunks_row() {
  return {"moe_add_bf16_mxfp4_chunks", DeviceType::kCuda, "the same, added to the residual",
          [](const MoeAddArgs& a) { return supports_any_tokens(a.moe); },
          [](const MoeAddArgs& a) { return chunks_workspace(a.moe); },
          [](const MoeAddArgs& a, Stream& stream) { run_chunks(a.moe, a.residual, stream); }};
}

KernelRow<MoeAddArgs> moe_add_bf16_mxfp4_small_row() {
  return {"moe_add_bf16_mxfp4_small", DeviceType::kCuda, "the same, added to the residual", [](const MoeAddArgs& a) { return supports(a.moe); },
          [](const MoeAddArgs& a) { return workspace(a.moe); },
          [](const MoeAddArgs& a, Stream& stream) { run_into(a.moe, a.residual, sizes(a.moe).single(), stream); }, true};
}

}  // namespace tessera::cuda
