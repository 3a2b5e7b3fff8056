// Rows that take every type, format and shape of the contracts, plainly: one warp a result, F32 throughout. They serve
// what the fast rows refuse, on any card.
#include "kernels/cuda/device/ptx.cuh"
#include "kernels/cuda/device/reduce.cuh"
#include "kernels/cuda/device/value.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rows.h"

namespace tessera::cuda {
namespace {

constexpr int kWarps = 8;

struct WeightView {
  AnyVector values;        // kPlain
  const uint8_t* blocks;   // kMxfp4
  const uint8_t* scales;
  const uint8_t* bytes;    // kFp8Rows
  const float* row_scales;
  int64_t k;
};

WeightView view_of(const Weight& w) {
  WeightView v{{nullptr, w.values.dtype}, nullptr, nullptr, nullptr, nullptr, w.k};
  if (w.format == WeightFormat::kPlain) {
    v.values.data = w.values.data;
  } else if (w.format == WeightFormat::kMxfp4) {
    v.blocks = w.values.as<uint8_t>();
    v.scales = w.scales.as<uint8_t>();
  } else {
    v.bytes = w.values.as<uint8_t>();
    v.row_scales = w.scales.f32();
  }
  return v;
}

__device__ __forceinline__ float weight_at(const WeightView& w, int64_t row, int64_t column) {
  if (w.values.data != nullptr) return w.values.at(row * w.k + column);
  if (w.bytes != nullptr) return e4m3_to_float(w.bytes[row * w.k + column]) * w.row_scales[row];
  uint32_t byte = w.blocks[row * (w.k / 2) + column / 2];
  uint32_t code = column % 2 == 0 ? byte & 15 : byte >> 4;
  uint32_t em = code & 7;
  float magnitude = em < 2 ? 0.5f * em : (em & 1 ? 1.5f : 1.0f) * static_cast<float>(1 << ((em >> 1) - 1));
  float value = ldexpf(magnitude, static_cast<int>(w.scales[row * (w.k / 32) + column / 32]) - 127);
  return code & 8 ? -value : value;
}

// x's row times w's row, over a warp.
__device__ __forceinline__ float row_dot(const AnyVector& x, int64_t x_row, const WeightView& w, int64_t row) {
  float sum = 0.0f;
  for (int64_t i = threadIdx.x % 32; i < w.k; i += 32) sum += x.at(x_row * w.k + i) * weight_at(w, row, i);
  return warp_sum(sum);
}

__device__ __forceinline__ int64_t warp_index() { return static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32; }

__global__ void linear_any(AnyVector x, WeightView w, AnyVector bias, AnyOutput out, int64_t n, int64_t count) {
  wait_for_previous_grid();
  allow_next_grid();
  int64_t i = warp_index();
  if (i >= count) return;
  float sum = row_dot(x, i / n, w, i % n);
  if (threadIdx.x % 32 == 0) out.put(i, sum + bias.at(i % n));
}

struct MoeAnyArgs {
  AnyVector x;
  const int32_t* indices;
  const float* weights;
  WeightView gate_up, down;
  AnyVector gate_up_bias, down_bias;
  MoeActivation activation;
  float limit;
  AnyOutput out;
  float* inner;  // [T * A, I]
  int64_t active, h, i, tokens, first_expert, experts;
};

__global__ void moe_gate_up_any(MoeAnyArgs a) {
  wait_for_previous_grid();
  allow_next_grid();
  int64_t index = warp_index();
  if (index >= a.tokens * a.active * a.i) return;
  int64_t pair = index / a.i, unit = index % a.i, expert = a.indices[pair] - a.first_expert;
  if (expert < 0 || expert >= a.experts) return;
  bool oai = a.activation == MoeActivation::kSwigluOai;
  int64_t gate_row = expert * 2 * a.i + (oai ? 2 * unit : unit), up_row = gate_row + (oai ? 1 : a.i);
  float gate = row_dot(a.x, pair / a.active, a.gate_up, gate_row) + a.gate_up_bias.at(gate_row);
  float up = row_dot(a.x, pair / a.active, a.gate_up, up_row) + a.gate_up_bias.at(up_row);
  float value;
  if (oai) {
    gate = fminf(gate, a.limit);
    up = fminf(fmaxf(up, -a.limit), a.limit);
    value = (up + 1.0f) * gate / (1.0f + expf(-1.702f * gate));
  } else {
    value = gate / (1.0f + expf(-gate)) * up;
  }
  if (threadIdx.x % 32 == 0) a.inner[index] = value;
}

__global__ void moe_down_any(MoeAnyArgs a) {
  wait_for_previous_grid();
  allow_next_grid();
  int64_t index = warp_index();
  if (index >= a.tokens * a.h) return;
  int64_t t = index / a.h, row = index % a.h;
  AnyVector inner{a.inner, DType::kF32};
  float sum = 0.0f;
  for (int64_t s = 0; s < a.active; ++s) {
    int64_t pair = t * a.active + s, expert = a.indices[pair] - a.first_expert;
    if (expert < 0 || expert >= a.experts) continue;
    float value = row_dot(inner, pair, a.down, expert * a.h + row) + a.down_bias.at(expert * a.h + row);
    sum += a.weights[pair] * value;
  }
  if (threadIdx.x % 32 == 0) a.out.put(index, sum);
}

// The cache's values: floats, or E4M3.
struct CacheVector {
  AnyVector values;
  __device__ __forceinline__ float at(int64_t i) const {
    if (values.dtype == DType::kF8E4M3) return e4m3_to_float(static_cast<const uint8_t*>(values.data)[i]);
    return values.at(i);
  }
};

struct AttentionAnyArgs {
  AnyVector q;
  CacheVector k, v;
  const int32_t *page_table, *query_start, *context;
  AnyVector sinks;
  AnyOutput out;
  int64_t batch, tokens, q_heads, kv_heads, head_dim, page_size, pages_per_sequence, window;
  float scale;
};

constexpr int kMaxHeadDim = 256;

// A warp a (token, head); lane l holds elements l, l+32, ... of the head.
__global__ void attention_any(AttentionAnyArgs a) {
  wait_for_previous_grid();
  allow_next_grid();
  int64_t index = warp_index();
  if (index >= a.tokens * a.q_heads) return;
  int64_t t = index / a.q_heads, head = index % a.q_heads, kv_head = head / (a.q_heads / a.kv_heads);
  int lane = threadIdx.x % 32;
  int64_t b = 0;
  while (b + 1 < a.batch && a.query_start[b + 1] <= t) ++b;
  int64_t position = a.context[b] - a.query_start[b + 1] + t;
  float q[kMaxHeadDim / 32], o[kMaxHeadDim / 32];
  for (int i = 0; i < kMaxHeadDim / 32; ++i) {
    int d = 32 * i + lane;
    q[i] = d < a.head_dim ? a.q.at(index * a.head_dim + d) : 0.0f;
    o[i] = 0.0f;
  }
  float m = a.sinks.data == nullptr ? -INFINITY : a.sinks.at(head);
  float l = a.sinks.data == nullptr ? 0.0f : 1.0f;
  int64_t first = a.window > 0 && position >= a.window ? position - a.window + 1 : 0;
  for (int64_t key = first; key <= position; ++key) {
    int64_t page = a.page_table[b * a.pages_per_sequence + key / a.page_size];
    int64_t row = ((page * a.kv_heads + kv_head) * a.page_size + key % a.page_size) * a.head_dim;
    float score = 0.0f;
    for (int i = 0; i < kMaxHeadDim / 32; ++i)
      if (32 * i + lane < a.head_dim) score += q[i] * a.k.at(row + 32 * i + lane);
    score = warp_sum(score) * a.scale;
    float top = fmaxf(m, score);
    float shrink = m == -INFINITY ? 0.0f : expf(m - top), weight = expf(score - top);
    m = top;
    l = l * shrink + weight;
    for (int i = 0; i < kMaxHeadDim / 32; ++i)
      if (32 * i + lane < a.head_dim) o[i] = o[i] * shrink + weight * a.v.at(row + 32 * i + lane);
  }
  for (int i = 0; i < kMaxHeadDim / 32; ++i)
    if (32 * i + lane < a.head_dim) a.out.put(index * a.head_dim + 32 * i + lane, l > 0.0f ? o[i] / l : 0.0f);
}

AnyVector vector_of(const Tensor& t) { return {t.data, t.dtype}; }
AnyOutput output_of(const Tensor& t) { return {t.data, t.dtype}; }
dim3 warps_grid(int64_t results) { return dim3(static_cast<unsigned>(ceil_div(results, kWarps))); }

Verdict supports_linear(const LinearArgs& a) {
  if (!on_gpu(a.x)) return {"the tensors are not on a CUDA device"};
  if (!is_float(a.x.dtype)) return {"activations are not F32, BF16 or F16"};
  if (a.w.format == WeightFormat::kMxfp4Atoms) return {"the weights are arranged for matrix units"};
  return kAccepted;
}

void run_linear(const LinearArgs& a, Stream& stream) {
  int64_t count = a.x.dim(0) * a.w.n;
  if (count == 0) return;
  launch("linear", linear_any, warps_grid(count), dim3(32 * kWarps), 0, stream, vector_of(a.x), view_of(a.w), vector_of(a.bias),
         output_of(a.out), a.w.n, count);
}

Verdict supports_moe(const MoeArgs& a) {
  if (!on_gpu(a.x)) return {"the tensors are not on a CUDA device"};
  if (a.gate_up.hosted) return {"the experts are kept in host memory"};
  if (!is_float(a.x.dtype)) return {"activations are not F32, BF16 or F16"};
  return kAccepted;
}

Verdict supports_plain_moe(const MoeArgs& a) {
  if (a.gate_up.format != WeightFormat::kPlain || a.down.format != WeightFormat::kPlain) return {"weights are quantised"};
  return supports_moe(a);
}

Verdict supports_mxfp4_moe(const MoeArgs& a) {
  if (a.gate_up.format != WeightFormat::kMxfp4 || a.down.format != WeightFormat::kMxfp4)
    return {"weights are not MXFP4 in the checkpoint's layout"};
  return supports_moe(a);
}

int64_t moe_workspace(const MoeArgs& a) { return a.indices.numel() * a.down.k * 4; }

void run_moe(const MoeArgs& a, Stream& stream) {
  MoeAnyArgs m{vector_of(a.x), a.indices.i32(), a.weights.f32(), view_of(a.gate_up), view_of(a.down),
               vector_of(a.gate_up_bias), vector_of(a.down_bias), a.activation, a.limit, output_of(a.out),
               static_cast<float*>(stream.workspace), a.indices.dim(1), a.x.dim(1), a.down.k, a.x.dim(0), a.first_expert,
               a.down.experts};
  if (m.tokens == 0) return;
  if (m.i > 0)
    launch("moe gate_up", moe_gate_up_any, warps_grid(m.tokens * m.active * m.i), dim3(32 * kWarps), 0, stream, m);
  launch("moe down", moe_down_any, warps_grid(m.tokens * m.h), dim3(32 * kWarps), 0, stream, m);
}

Verdict supports_attention(const AttentionArgs& a) {
  if (!on_gpu(a.q)) return {"the tensors are not on a CUDA device"};
  if (!is_float(a.q.dtype)) return {"activations are not F32, BF16 or F16"};
  if (!is_float(a.cache.k.dtype) && a.cache.k.dtype != DType::kF8E4M3) return {"the cache is not F32, BF16, F16 or E4M3"};
  if (a.q.dim(2) > kMaxHeadDim) return {"the head dimension is above 256"};
  return kAccepted;
}

void run_attention(const AttentionArgs& a, Stream& stream) {
  AttentionAnyArgs m{vector_of(a.q), {vector_of(a.cache.k)}, {vector_of(a.cache.v)}, a.page_table.i32(), a.query_start.i32(),
                     a.context.i32(), vector_of(a.sinks), output_of(a.out), a.context.dim(0), a.q.dim(0), a.q.dim(1),
                     a.cache.k.dim(1), a.q.dim(2), a.cache.page_size(), a.page_table.dim(1), a.window, a.scale};
  if (m.tokens == 0) return;
  launch("attention", attention_any, warps_grid(m.tokens * m.q_heads), dim3(32 * kWarps), 0, stream, m);
}

}  // namespace

KernelRow<LinearArgs> linear_any_row() {
  return {"linear_any_cuda", DeviceType::kCuda, "any types and formats, plain", supports_linear, nullptr, run_linear};
}

KernelRow<MoeArgs> moe_any_row() {
  return {"moe_any_cuda", DeviceType::kCuda, "any float types, plain loops", supports_plain_moe, moe_workspace, run_moe};
}

KernelRow<MoeArgs> moe_mxfp4_any_row() {
  return {"moe_mxfp4_any_cuda", DeviceType::kCuda, "MXFP4 as stored, any activations, plain loops", supports_mxfp4_moe,
          moe_workspace, run_moe};
}

KernelRow<AttentionArgs> attention_any_row() {
  return {"attention_any_cuda", DeviceType::kCuda, "any types and head dimensions, plain", supports_attention, nullptr,
          run_attention};
}

}  // namespace tessera::cuda
