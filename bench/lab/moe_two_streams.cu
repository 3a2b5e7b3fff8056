// One token's experts as two kernels that are on the chip together; slower than moe_bf16_mxfp4.cu (35.6 us against 26.4 on
// an H100, see docs/gpu-notes.md), kept to be taken apart. Compiles in place of a row: moe_bf16_mxfp4_single_row().
//   gate_up  one block a multiprocessor; its warps share its rows evenly, each with a ring of weights in shared memory
//   down     a cluster for 16 rows, a block for two experts, which copies all of its weights to shared memory as soon as
//            gate_up has started (the ids are there), then waits for gate_up's end, multiplies, and adds in slot order
// Lanes copy exactly what they multiply: no barrier guards the rings.
#include "kernels/cuda/device/atom_mma.cuh"
#include "kernels/cuda/device/cluster.cuh"
#include "kernels/cuda/device/swiglu.cuh"
#include "kernels/cuda/device/value.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rows.h"

namespace tessera::cuda {
namespace {

using bf16 = __nv_bfloat16;
constexpr int kUnitRows = 16;  // rows of a warp's share of an atom
constexpr int kShareBytes = 512;
constexpr int kUpWarps = 16;
constexpr int kUpStages = 6;
constexpr int kMaxUnits = 12;  // of a gate_up block
constexpr int kDownWarps = 4;
constexpr int kDownStages = 23;  // all atoms of half a row: I up to 2944
constexpr int kMaxActive = 8;
constexpr int kUpRingBytes = kUpWarps * kUpStages * kShareBytes;
constexpr int kDownRingBytes = kDownWarps * kDownStages * kShareBytes;
constexpr int kDownBytes = kDownRingBytes + (kDownWarps + kMaxActive) * kUnitRows * 4;

struct UpArgs {
  const int32_t* indices;  // [A]
  const uint8_t* atoms;    // [E, strips, k_atoms]
  int strips, k_atoms, active;
  const bf16* x;  // [H]
  AnyVector bias;
  float limit;
  bf16* out;  // [A, I]
};

// A unit is 16 rows of one of the token's experts: unit u belongs to slot u / (4 strips). Dynamic shared memory: the rings,
// then x, then [kMaxUnits][kUpWarps][16] sums.
__global__ void __launch_bounds__(32 * kUpWarps, 2) moe_single_gate_up(UpArgs a) {
  uint32_t ring = dynamic_smem(), x_smem = ring + kUpRingBytes, sums = x_smem + a.k_atoms * 128;
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
  int slot_units = a.strips * 4, units = slot_units * a.active, blocks = gridDim.x, block = blockIdx.x;
  int first_unit = static_cast<int>(static_cast<int64_t>(units) * block / blocks);
  int unit_count = static_cast<int>(static_cast<int64_t>(units) * (block + 1) / blocks) - first_unit;
  int total = unit_count * a.k_atoms;
  int begin = total * warp / kUpWarps, end = total * (warp + 1) / kUpWarps;
  uint32_t own = ring + (warp * kUpStages * 32 + lane) * 16;
  wait_for_previous_grid();
  allow_next_grid();

  // The producer's place: atom `next` of the block's list, its weights and scales in memory, `left` atoms to its unit's end.
  int next = begin, left = 0;
  const uint8_t *values = a.atoms, *scale_words = a.atoms;
  uint32_t scales[kUpStages];
  auto produce = [&](int stage) {
    bool valid = next < end;
    if (valid && left == 0) {
      int unit = first_unit + next / a.k_atoms, atom = next % a.k_atoms;
      int64_t strip = static_cast<int64_t>(a.indices[unit / slot_units]) * a.strips + unit % slot_units / 4;
      const uint8_t* base = a.atoms + (strip * a.k_atoms + atom) * kAtomBytes;
      values = base + unit % 4 * kShareBytes + lane * 16;
      scale_words = base + kAtomValueBytes + unit % 4 * 32 + g * 4;
      left = a.k_atoms - atom;
    }
    cp_async_16(own + stage * kShareBytes, valid ? values : a.atoms, valid);
    scales[stage] = load_weights_word_if(scale_words, valid);
    cp_async_commit();
    values += kAtomBytes;
    scale_words += kAtomBytes;
    ++next;
    --left;
  };
#pragma unroll
  for (int i = 0; i < kUpStages; ++i) produce(i);

  for (int i = threadIdx.x; i < a.k_atoms * 8; i += 32 * kUpWarps) store_smem(x_smem + 16 * i, load_act(a.x + 8 * i));
  for (int i = threadIdx.x; i < kMaxUnits * kUpWarps * 4; i += 32 * kUpWarps) store_smem(sums + 16 * i, uint4{0, 0, 0, 0});
  __syncthreads();

  float acc[2][1][4] = {};
  int unit = begin / a.k_atoms, atom = begin % a.k_atoms;
  auto flush = [&] {
    if (c == 0) {
      uint32_t to = sums + ((unit * kUpWarps + warp) * kUnitRows + 2 * g) * 4;
      store_smem_float(to, acc[0][0][0] + acc[1][0][0]);
      store_smem_float(to + 4, acc[0][0][2] + acc[1][0][2]);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) acc[0][0][i] = acc[1][0][i] = 0.0f;
  };
  for (int base = begin; base < end; base += kUpStages) {
#pragma unroll
    for (int i = 0; i < kUpStages; ++i) {
      if (base + i >= end) break;
      cp_async_wait<kUpStages - 1>();
      uint4 w = load_smem(own + i * kShareBytes), xb[2][1];
      uint32_t column = x_smem + atom * 128 + 16 * c;
      xb[0][0] = load_smem(column);
      xb[1][0] = load_smem(column + 64);
      atom_mma<1>(acc, w, scales[i], xb);
      produce(i);
      if (++atom == a.k_atoms) {
        flush();
        atom = 0;
        ++unit;
      }
    }
  }
  if (begin < end && atom != 0) flush();
  __syncthreads();
  if (threadIdx.x < unit_count * 8) {
    int mine = threadIdx.x / 8, pair = threadIdx.x % 8, global = first_unit + mine;
    int slot = global / slot_units, in_slot = global % slot_units;
    int64_t bias_row = (static_cast<int64_t>(a.indices[slot]) * slot_units + in_slot) * kUnitRows + 2 * pair;
    float gate = a.bias.at(bias_row), up = a.bias.at(bias_row + 1);
    for (int w = 0; w < kUpWarps; ++w) {
      uint32_t at = sums + ((mine * kUpWarps + w) * kUnitRows + 2 * pair) * 4;
      gate += load_smem_float(at);
      up += load_smem_float(at + 4);
    }
    a.out[static_cast<int64_t>(global) * 8 + pair] = __float2bfloat16_rn(swiglu_oai(gate, up, a.limit));
  }
}

struct DownArgs {
  const int32_t* indices;  // [A]
  const float* weights;    // [A]
  const uint8_t* atoms;
  int strips, k_atoms, active;
  const bf16* x;  // [A, I]
  AnyVector bias;
  bf16* out;       // [H]
  bf16* residual;  // [H] or null: then it gets the sum added, and out nothing
};

// Grid: ((A + 1) / 2 blocks of a cluster, H / 16). Warps 2s and 2s+1 of block r: slot 2r + s, halves of K.
__global__ void __launch_bounds__(32 * kDownWarps, 6) moe_single_down(DownArgs a) {
  uint32_t ring = dynamic_smem(), sums = ring + kDownRingBytes, terms = sums + kDownWarps * kUnitRows * 4;
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
  int rank = blockIdx.x, unit = blockIdx.y, quarter = unit % 4;
  int slot = min(2 * rank + warp / 2, a.active - 1);  // an odd last slot is done twice, and counted once
  int begin = a.k_atoms * (warp % 2) / 2, count = a.k_atoms * (warp % 2 + 1) / 2 - begin, last = max(count - 1, 0);
  int64_t expert = a.indices[slot];
  const uint8_t* from = a.atoms + ((expert * a.strips + unit / 4) * a.k_atoms + begin) * kAtomBytes;
  uint32_t own = ring + (warp * kDownStages * 32 + lane) * 16;
  uint32_t scales[kDownStages];
#pragma unroll
  for (int i = 0; i < kDownStages; ++i) {
    const uint8_t* atom = from + min(i, last) * kAtomBytes;
    cp_async_16(own + i * kShareBytes, atom + quarter * kShareBytes + lane * 16, i < count);
    cp_async_commit();
    scales[i] = load_weights_word_if(atom + kAtomValueBytes + quarter * 32 + g * 4, i < count);
  }
  // Thread t of the first warp finishes row t % 16 of the block's slot t / 16.
  int finished = 2 * rank + threadIdx.x / 16;
  bool finishes = threadIdx.x < 32 && finished < a.active;
  float bias = 0.0f, weight = 0.0f;
  if (finishes) {
    bias = a.bias.at(static_cast<int64_t>(a.indices[finished]) * a.strips * 64 + unit * kUnitRows + threadIdx.x % 16);
    weight = a.weights[finished];
  }
  wait_for_previous_grid();
  allow_next_grid();

  const bf16* x = a.x + (static_cast<int64_t>(slot) * a.k_atoms + begin) * kAtomColumns;
  if (lane < count) touch(x + lane * kAtomColumns);
  x += 8 * c;
  uint4 xb[2][1] = {{load_act(x)}, {load_act(x + 32)}};
  float acc[2][1][4] = {};
  unrolled<kDownStages>([&](auto index) {
    constexpr int i = decltype(index)::value;
    cp_async_wait<kDownStages - 1 - i>();
    uint4 w = load_smem(own + i * kShareBytes), now[2][1] = {{xb[0][0]}, {xb[1][0]}};
    const bf16* ahead = x + min(i + 1, last) * static_cast<int>(kAtomColumns);
    xb[0][0] = load_act(ahead);
    xb[1][0] = load_act(ahead + 32);
    atom_mma<1>(acc, w, scales[i], now);  // past the end: zeros
  });
  if (c == 0) {
    uint32_t to = sums + (warp * kUnitRows + 2 * g) * 4;
    store_smem_float(to, acc[0][0][0] + acc[1][0][0]);
    store_smem_float(to + 4, acc[0][0][2] + acc[1][0][2]);
  }
  __syncthreads();
  if (finishes) {
    int row = threadIdx.x % 16, own_slot = threadIdx.x / 16;
    float value = bias;
    for (int h = 0; h < 2; ++h) value += load_smem_float(sums + ((2 * own_slot + h) * kUnitRows + row) * 4);
    store_cluster_float(terms + (finished * kUnitRows + row) * 4, 0, weight * value);
  }
  cluster_arrive();
  cluster_wait();
  if (rank != 0 || threadIdx.x >= kUnitRows) return;
  float sum = 0.0f;
  for (int s = 0; s < a.active; ++s) sum += load_smem_float(terms + (s * kUnitRows + threadIdx.x) * 4);
  int row = unit * kUnitRows + threadIdx.x;
  bf16 rounded = __float2bfloat16_rn(sum);
  if (a.residual == nullptr) {
    a.out[row] = rounded;
  } else {
    a.residual[row] = __float2bfloat16_rn(to_float(a.residual[row]) + to_float(rounded));
  }
}

int up_smem(int64_t hidden) {
  return kUpRingBytes + static_cast<int>(hidden) * 2 + kMaxUnits * kUpWarps * kUnitRows * 4;
}

// Blocks of gate_up: one a multiprocessor, or fewer when there is less to do.
int64_t up_blocks(const MoeArgs& a) {
  int64_t units = a.indices.dim(1) * a.gate_up.n / kUnitRows, blocks = multiprocessors();
  return units < blocks ? units : blocks;
}

Verdict supports(const MoeArgs& a) {
  if (!on_gpu(a.x)) return {"the tensors are not on a CUDA device"};
  if (a.x.dtype != DType::kBF16) return {"activations are not BF16"};
  if (a.gate_up.format != WeightFormat::kMxfp4Atoms || a.down.format != WeightFormat::kMxfp4Atoms)
    return {"weights are not MXFP4 atoms"};
  if (a.activation != MoeActivation::kSwigluOai) return {"the activation is not gpt-oss's SwiGLU"};
  if (a.x.dim(0) != 1) return {"more than one token"};
  if (a.indices.dim(1) > kMaxActive) return {"more than 8 active experts"};
  if (a.down.k / kAtomColumns > 2 * kDownStages) return {"experts are wider than 2944"};
  if (a.x.dim(1) > 8192) return {"the hidden size is above 8192"};
  if (ceil_div(a.indices.dim(1) * a.gate_up.n / kUnitRows, up_blocks(a)) > kMaxUnits)
    return {"more expert rows than 192 a multiprocessor"};
  return kAccepted;
}

int64_t workspace(const MoeArgs& a) { return a.indices.dim(1) * a.down.k * 2; }

void run_into(const MoeArgs& a, const Tensor& residual, Stream& stream) {
  auto vector_of = [](const Tensor& t) { return AnyVector{t.data, t.dtype}; };
  int active = static_cast<int>(a.indices.dim(1));
  int64_t hidden = a.x.dim(1), inner = a.down.k;
  bf16* activations = static_cast<bf16*>(stream.workspace);
  UpArgs up{a.indices.i32(),
            a.gate_up.values.as<uint8_t>(),
            static_cast<int>(a.gate_up.n / kAtomRows),
            static_cast<int>(hidden / kAtomColumns),
            active,
            a.x.as<bf16>(),
            vector_of(a.gate_up_bias),
            a.limit,
            activations};
  allow_smem(moe_single_gate_up, up_smem(hidden));
  launch("moe gate_up", moe_single_gate_up, dim3(up_blocks(a)), dim3(32 * kUpWarps), up_smem(hidden), stream, up);
  DownArgs down{a.indices.i32(),
                a.weights.f32(),
                a.down.values.as<uint8_t>(),
                static_cast<int>(hidden / kAtomRows),
                static_cast<int>(inner / kAtomColumns),
                active,
                activations,
                vector_of(a.down_bias),
                a.out.as<bf16>(),
                residual.as<bf16>()};
  unsigned cluster = static_cast<unsigned>(active + 1) / 2;
  launch_clusters("moe down", moe_single_down, dim3(cluster, hidden / kUnitRows), dim3(32 * kDownWarps), kDownBytes, cluster, stream,
                  down);
}

void run(const MoeArgs& a, Stream& stream) { run_into(a, {}, stream); }

}  // namespace

KernelRow<MoeArgs> moe_bf16_mxfp4_single_row() {
  return {"moe_bf16_mxfp4_single_sm90", DeviceType::kCuda, "MXFP4 atoms, one token: two kernels that share the chip", supports,
          workspace, run};
}

KernelRow<MoeAddArgs> moe_add_bf16_mxfp4_single_row() {
  return {"moe_add_bf16_mxfp4_single_sm90", DeviceType::kCuda, "the same, added to the residual", [](const MoeAddArgs& a) { return supports(a.moe); },
          [](const MoeAddArgs& a) { return workspace(a.moe); },
          [](const MoeAddArgs& a, Stream& stream) { run_into(a.moe, a.residual, stream); }};
}

}  // namespace tessera::cuda
