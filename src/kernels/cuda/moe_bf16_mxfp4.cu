// Mixture of experts on MXFP4 atoms for few tokens: bound by weight reads. A warp takes 16 rows of one expert over all
// of K (or half of it), weights as the A operand of mma.sync straight from 16-byte global loads, up to 16 of the
// expert's (token, slot) pairs as its columns. Expert ids are read on the device. All sums have a fixed order.
#include "kernels/cuda/device/atom_mma.cuh"
#include "kernels/cuda/device/swiglu.cuh"
#include "kernels/cuda/device/value.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/moe_combine.h"
#include "kernels/cuda/rows.h"

namespace tessera::cuda {
namespace {

using bf16 = __nv_bfloat16;
constexpr int kMaxTokens = 256;
constexpr int kMaxExperts = 256;

struct GroupedArgs {
  const int32_t* indices;  // [T, A]
  int pairs;               // T * A
  int active;              // A
  const uint8_t* atoms;
  int k_atoms;
  const bf16* x;  // [T, K] (gate_up) or [T * A, K] (down)
  AnyVector bias;
  float limit;
  void* out;  // gate_up: bf16 [T * A, I]; down: F32 [T * A, H], without bias and weight
};

// The group-th distinct expert of the step in index order, and its pairs in order. Returns the number of pairs; 0 when
// there are fewer distinct experts. Called by all threads of the block.
__device__ int find_group(const int32_t* indices, int pairs, int group, int& expert, int* list) {
  __shared__ uint32_t used[kMaxExperts / 32];
  __shared__ int found[2];
  int tid = threadIdx.x;
  if (tid < kMaxExperts / 32) used[tid] = 0;
  __syncthreads();
  for (int i = tid; i < pairs; i += blockDim.x) {
    int e = indices[i];
    if (e >= 0 && e < kMaxExperts) atomicOr(&used[e >> 5], 1u << (e & 31));
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
        bool mine = base + tid < pairs && indices[base + tid] == chosen;
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
  const int* list;  // pairs of the group; null with one token, whose only pair is `pair`
  int pair;
  __device__ int at(int position) const { return list == nullptr ? pair : list[position]; }
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
  const bf16* x[kTiles];
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
    int pair = group.at(min(first + t * 8 + g, group.count - 1));
    x[t] = a.x + static_cast<int64_t>(kGateUp ? pair / a.active : pair) * k + 8 * c;
  }
  float acc[kTiles][4];
  run_atoms<kTiles, kDepth>(acc, strip + warp * 512 + lane * 16, strip + kAtomValueBytes + warp * 32 + g * 4, a.k_atoms, x, [&] {
    int rows = min(group.count - first, 8 * kTiles);
    for (int i = threadIdx.x; i < rows * a.k_atoms; i += 128) {
      int pair = group.at(first + i / a.k_atoms);
      touch(a.x + static_cast<int64_t>(kGateUp ? pair / a.active : pair) * k + i % a.k_atoms * 64);
    }
  });
  float bias_even = a.bias.at(bias_row), bias_odd = a.bias.at(bias_row + 1);
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

// Block: 4 warps, one strip of 64 rows of the group's expert. Grid: (strips, groups). With one token, group = slot and
// nothing has to be searched; with kWide, groups of more than 8 pairs take 16 columns at a time.
template <bool kGateUp, bool kSingle, bool kWide>
__global__ void __launch_bounds__(128, 4) moe_grouped(GroupedArgs a) {
  wait_for_previous_grid();
  allow_next_grid();
  if constexpr (kSingle) {
    int slot = blockIdx.y;
    run_strip<kGateUp, 1, 9>(a, {a.indices[slot], 1, nullptr, slot}, 0);
  } else {
    __shared__ int list[kMaxTokens];
    GroupView group{0, 0, list, 0};
    group.count = find_group(a.indices, a.pairs, blockIdx.y, group.expert, list);
    int first = 0;
    if constexpr (kWide)
      for (; group.count - first > 8; first += 16) run_strip<kGateUp, 2, 8>(a, group, first);
    for (; first < group.count; first += 8) run_strip<kGateUp, 1, 9>(a, group, first);
  }
}

struct SingleDownArgs {
  const int32_t* indices;  // [A]
  const float* weights;    // [A]
  const uint8_t* atoms;
  int strips;
  int k_atoms;
  const bf16* x;  // [A, I]
  AnyVector bias;
  bf16* out;  // [H]
};

// One token: a block owns 16 output rows for all A experts (2 warps an expert, each half of K) and adds in slot order.
// The ids were complete before the previous grid (gate_up) allowed this one, so weights are fetched before the wait.
template <int kDepth>
__global__ void moe_down_single(SingleDownArgs a) {
  __shared__ float partial[32][16];
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
  int slot = warp / 2, half = warp % 2;
  int expert = a.indices[slot];
  int begin = half * ((a.k_atoms + 1) / 2);
  int count = half == 0 ? (a.k_atoms + 1) / 2 : a.k_atoms / 2;
  int strip = blockIdx.x / 4, quarter = blockIdx.x % 4;
  const uint8_t* base =
      a.atoms + ((static_cast<int64_t>(expert) * a.strips + strip) * a.k_atoms + begin) * kAtomBytes;
  int k = a.k_atoms * static_cast<int>(kAtomColumns);
  const bf16* x[1] = {a.x + slot * k + begin * kAtomColumns + 8 * c};
  float acc[1][4] = {};
  run_atoms<1, kDepth>(acc, base + quarter * 512 + lane * 16, base + kAtomValueBytes + quarter * 32 + g * 4, count, x, [&] {
    wait_for_previous_grid();
    allow_next_grid();
    if (lane < count) touch(a.x + slot * k + (begin + lane) * kAtomColumns);
  });
  if (c == 0) {
    partial[warp][2 * g] = acc[0][0];
    partial[warp][2 * g + 1] = acc[0][2];
  }
  __syncthreads();
  if (threadIdx.x < 16) {
    int row = blockIdx.x * 16 + threadIdx.x;
    float sum = 0.0f;
    int active = blockDim.x / 64;
    for (int s = 0; s < active; ++s) {
      int64_t bias_row = static_cast<int64_t>(a.indices[s]) * a.strips * 64 + row;
      float value = partial[2 * s][threadIdx.x] + partial[2 * s + 1][threadIdx.x];
      sum += a.weights[s] * (value + a.bias.at(bias_row));
    }
    a.out[row] = __float2bfloat16_rn(sum);
  }
}

struct Sizes {
  int64_t tokens, active, hidden, inner;
  int64_t pairs() const { return tokens * active; }
  int64_t inner_bytes() const { return ceil_div(pairs() * inner * 2, 256) * 256; }
};
Sizes sizes(const MoeArgs& a) { return {a.x.dim(0), a.indices.dim(1), a.x.dim(1), a.down.k}; }

Verdict supports(const MoeArgs& a) {
  if (!on_gpu(a.x)) return {"the tensors are not on a CUDA device"};
  if (a.x.dtype != DType::kBF16) return {"activations are not BF16"};
  if (a.gate_up.format != WeightFormat::kMxfp4Atoms || a.down.format != WeightFormat::kMxfp4Atoms)
    return {"weights are not MXFP4 atoms"};
  if (a.activation != MoeActivation::kSwigluOai) return {"the activation is not gpt-oss's SwiGLU"};
  Sizes s = sizes(a);
  if (s.tokens > kMaxTokens) return {"more than 256 tokens"};
  if (s.active > 8) return {"more than 8 active experts"};
  if (a.gate_up.experts > kMaxExperts) return {"more than 256 experts"};
  return kAccepted;
}

int64_t workspace(const MoeArgs& a) {
  Sizes s = sizes(a);
  return s.inner_bytes() + (s.tokens == 1 ? 0 : s.pairs() * s.hidden * 4);
}

AnyVector vector_of(const Tensor& t) { return {t.data, t.dtype}; }

template <bool kGateUp>
void launch_grouped(const GroupedArgs& g, int64_t strips, int64_t groups, bool wide, Stream& stream) {
  launch(kGateUp ? "moe gate_up" : "moe down", wide ? moe_grouped<kGateUp, false, true> : moe_grouped<kGateUp, false, false>,
         dim3(strips, groups), dim3(128), 0, stream, g);
}

void run(const MoeArgs& a, Stream& stream) {
  Sizes s = sizes(a);
  if (s.tokens == 0) return;
  char* scratch = static_cast<char*>(stream.workspace);
  int64_t groups = s.pairs() < a.gate_up.experts ? s.pairs() : a.gate_up.experts;
  GroupedArgs up{a.indices.i32(), static_cast<int>(s.pairs()),
                 static_cast<int>(s.active), a.gate_up.values.as<uint8_t>(),
                 static_cast<int>(s.hidden / kAtomColumns), a.x.as<bf16>(),
                 vector_of(a.gate_up_bias), a.limit,
                 scratch};
  int64_t up_strips = a.gate_up.n / kAtomRows;
  int k_atoms = static_cast<int>(s.inner / kAtomColumns);
  if (s.tokens == 1) {
    launch("moe gate_up", moe_grouped<true, true, false>, dim3(up_strips, s.active), dim3(128), 0, stream, up);
    SingleDownArgs down{a.indices.i32(), a.weights.f32(), a.down.values.as<uint8_t>(),
                        static_cast<int>(s.hidden / kAtomRows), k_atoms,
                        reinterpret_cast<bf16*>(scratch), vector_of(a.down_bias), a.out.as<bf16>()};
    launch("moe down", moe_down_single<8>, dim3(s.hidden / 16), dim3(64 * s.active), 0, stream, down);
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
  moe_combine(a, y, stream);
}

}  // namespace

KernelRow<MoeArgs> moe_bf16_mxfp4_small_row() {
  return {"moe_bf16_mxfp4_small", DeviceType::kCuda, "MXFP4 atoms, mma.sync, bound by weight reads: up to 256 tokens", supports,
          workspace, run};
}

}  // namespace tessera::cuda
