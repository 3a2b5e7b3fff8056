// x * w^T + bias for many tokens, E4M3 weights with a scale a row: the weights are widened to bf16 in the workspace, which is
// exact (a scale is a power of two), and cuBLASLt multiplies. Widening costs about 15 us for gpt-oss's q, k, v and o.
#include "kernels/cuda/device/fp8.cuh"
#include "kernels/cuda/device/value.cuh"
#include "kernels/cuda/fp8_rows.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rows.h"

namespace tessera::cuda {
namespace {

using bf16 = __nv_bfloat16;
constexpr int64_t kMaxWeights = int64_t{1} << 26;  // 128 MB of workspace; an unembedding stays in 8 bits

// Grid: N blocks, a row each; K is a multiple of 64.
__global__ void __launch_bounds__(256) widen_rows(const uint8_t* w, const float* scales, bf16* out, int k) {
  allow_next_grid();
  wait_for_previous_grid();
  int64_t row = blockIdx.x;
  bf16 scale = __float2bfloat16_rn(scales[row]);
  uint32_t both = pack2<bf16>(to_float(scale), to_float(scale));
  for (int i = threadIdx.x * 16; i < k; i += blockDim.x * 16) {
    uint4 v = load_weights(w + row * k + i);
    uint4 lo{mul_bf16x2(fp8_pair<false>(v.x), both), mul_bf16x2(fp8_pair<true>(v.x), both), mul_bf16x2(fp8_pair<false>(v.y), both),
             mul_bf16x2(fp8_pair<true>(v.y), both)};
    uint4 hi{mul_bf16x2(fp8_pair<false>(v.z), both), mul_bf16x2(fp8_pair<true>(v.z), both), mul_bf16x2(fp8_pair<false>(v.w), both),
             mul_bf16x2(fp8_pair<true>(v.w), both)};
    uint4* to = reinterpret_cast<uint4*>(out + row * k + i);
    to[0] = lo;
    to[1] = hi;
  }
}

int64_t widened_bytes(const LinearArgs& a) {
  return ceil_div(a.w.n * a.w.k * 2, 256) * 256;
}

LinearArgs widened(const LinearArgs& a, void* memory) {
  LinearArgs wide = a;
  wide.w.format = WeightFormat::kPlain;
  wide.w.values = {memory, {a.w.n, a.w.k}, DType::kBF16, a.w.values.device};
  wide.w.scales = {};
  return wide;
}

Verdict supports(const LinearArgs& a) {
  if (!on_gpu(a.x)) return {"the tensors are not on a CUDA device"};
  if (a.x.dtype != DType::kBF16) return {"activations are not BF16"};
  if (a.w.format != WeightFormat::kFp8Rows) return {"weights are not FP8 rows"};
  if (!fits_fp8_rows(a.w.k)) return {"K is not a multiple of 64"};
  if (a.w.n * a.w.k > kMaxWeights) return {"more than 2^26 weights"};
  return linear_cublaslt_row().supports(widened(a, nullptr));
}

int64_t workspace(const LinearArgs& a) {
  return widened_bytes(a) + linear_cublaslt_row().workspace(widened(a, nullptr));
}

void run(const LinearArgs& a, Stream& stream) {
  if (a.x.dim(0) == 0) return;
  bf16* memory = static_cast<bf16*>(stream.workspace);
  launch("widen", widen_rows, dim3(a.w.n), dim3(256), 0, stream, a.w.values.as<uint8_t>(), a.w.scales.f32(), memory,
         static_cast<int>(a.w.k));
  Stream rest = stream;
  rest.workspace = static_cast<char*>(stream.workspace) + widened_bytes(a);
  linear_cublaslt_row().launch(widened(a, memory), rest);
}

}  // namespace

KernelRow<LinearArgs> linear_fp8_wide_row() {
  return {"linear_bf16_fp8_wide", DeviceType::kCuda, "widened to BF16, then cuBLASLt: from 33 tokens", supports, workspace, run, true};
}

}  // namespace tessera::cuda
