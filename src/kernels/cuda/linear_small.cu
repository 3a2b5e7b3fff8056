// x * w^T + bias for few tokens, 16-bit weights as they lie in the checkpoint: bound by weight reads. A warp takes 16
// rows of w (a lane's are 2g and 2g+1) and all or a share of K.
#include "kernels/cuda/device/peer.cuh"
#include "kernels/cuda/device/row_product.cuh"
#include "kernels/cuda/device/value.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rows.h"

namespace tessera::cuda {
namespace {

constexpr int kMaxTokens = 16;
constexpr int kManyStrips = 8 * 132;   // of 16 rows: from here a warp takes whole ones
constexpr int kShallow = 16 * 6 * 32;  // up to this K 16 warps have 6 loads each
constexpr int kNarrow = 12 * 8 * 32;   // up to this K blocks of 8 warps, with 2/3 of it in flight (three: 1/3)
constexpr int kOneEach = 132, kTwoEach = 264;  // blocks: one or two a multiprocessor of an H100

struct SmallArgs {
  const void* x;  // [T, K]
  const void* w;  // [N, K]
  AnyVector bias;
  AnyOutput out;  // [T, N]
  int tokens;
  int n;
  int k;
};

// kRowWarps x kColumnWarps warps; a block covers 16 * kRowWarps rows, each split in K over kColumnWarps warps whose sums
// meet in shared memory in a fixed order. As many registers as kBlocks blocks a multiprocessor leave: more loads are hoisted
// (414 to 397 us at lm_head).
// With kSend the other ranks get the results too (N a multiple of 16).
template <class T, int kTiles, int kRowWarps, int kColumnWarps, int kDepth, bool kPrefetch, bool kSend = false, int kBlocks = 1>
__global__ void __launch_bounds__(32 * kRowWarps * kColumnWarps, kBlocks) linear_small(SmallArgs a, PeerView v) {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
  int row_warp = warp % kRowWarps, column_warp = warp / kRowWarps;
  int row = (blockIdx.x * kRowWarps + row_warp) * 16 + 2 * g;
  int steps = a.k / 32;
  int begin = steps * column_warp / kColumnWarps;
  int count = steps * (column_warp + 1) / kColumnWarps - begin;
  const T* w = static_cast<const T*>(a.w) + 32 * begin + 8 * c;
  const T* w0 = w + static_cast<int64_t>(min(row, a.n - 1)) * a.k;
  const T* w1 = w + static_cast<int64_t>(min(row + 1, a.n - 1)) * a.k;
  const T* x[kTiles];
#pragma unroll
  for (int t = 0; t < kTiles; ++t)
    x[t] = static_cast<const T*>(a.x) + static_cast<int64_t>(min(t * 8 + g, a.tokens - 1)) * a.k + 32 * begin + 8 * c;

  bool owner = column_warp == 0;
  float bias0 = 0.0f, bias1 = 0.0f;
  float acc[kTiles][4];
  [[maybe_unused]] uint32_t call = 0;
  row_product<T, kTiles, kDepth>(acc, w0, w1, count, x, [&] {
    if constexpr (kPrefetch) {
      // The rest of the warp's weights, a 128-byte line of 16 rows at a time: memory stays busy while the grid before drains.
      int rest = (count - kDepth + 1) / 2, row0 = row - 2 * g;
      for (int i = lane; i < 16 * rest; i += 32) {
        int64_t line_row = min(row0 + i % 16, a.n - 1);
        prefetch_l2(static_cast<const T*>(a.w) + line_row * a.k + 32 * (begin + kDepth) + i / 16 * 64);
      }
    }
    if (owner && row < a.n) bias0 = a.bias.at(row);
    if (owner && row + 1 < a.n) bias1 = a.bias.at(row + 1);
    // Few strips leave room for the next grid's blocks, whose weights or keys may as well be on their way.
    if constexpr (kColumnWarps > 1) allow_next_grid();
    wait_for_previous_grid();
    if constexpr (kColumnWarps == 1) allow_next_grid();
    if constexpr (kSend) call = this_call(v);
    // The warp's share of x, 128 bytes a touch.
    int lines = count / 2 + 1;
    for (int i = lane; i < a.tokens * lines; i += 32)
      touch(static_cast<const T*>(a.x) + static_cast<int64_t>(i / lines) * a.k + 32 * begin +
            min(i % lines * 64, count * 32 - 8));
  });

  if constexpr (kColumnWarps > 1) {
    __shared__ float partial[kColumnWarps][kRowWarps][kTiles][32][4];
#pragma unroll
    for (int t = 0; t < kTiles; ++t)
      *reinterpret_cast<float4*>(partial[column_warp][row_warp][t][lane]) =
          make_float4(acc[t][0], acc[t][1], acc[t][2], acc[t][3]);
    __syncthreads();
    if (column_warp != 0) return;
#pragma unroll
    for (int t = 0; t < kTiles; ++t)
#pragma unroll
      for (int s = 1; s < kColumnWarps; ++s) {
        float4 p = *reinterpret_cast<const float4*>(partial[s][row_warp][t][lane]);
        acc[t][0] += p.x;
        acc[t][1] += p.y;
        acc[t][2] += p.z;
        acc[t][3] += p.w;
      }
  }
  if (row >= a.n) return;
#pragma unroll
  for (int t = 0; t < kTiles; ++t)
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      int token = t * 8 + 2 * c + j;
      int64_t at = static_cast<int64_t>(token) * a.n + row;
      if constexpr (kSend) {  // two lanes hold four rows
        uint32_t own = pack2<T>(acc[t][j] + bias0, acc[t][2 + j] + bias1);
        uint32_t next = __shfl_down_sync(0xffffffffu, own, 4);
        if (g % 2 == 0 && token < a.tokens) push_quad(v, call, at, own, next);
      }
      if (token >= a.tokens) continue;
      a.out.put(at, acc[t][j] + bias0);
      if (row + 1 < a.n) a.out.put(at + 1, acc[t][2 + j] + bias1);
    }
}

Verdict supports(const LinearArgs& a) {
  if (!on_gpu(a.x)) return {"the tensors are not on a CUDA device"};
  if (!is_16_bit(a.x.dtype)) return {"activations are not BF16 or F16"};
  if (a.w.format != WeightFormat::kPlain || a.w.values.dtype != a.x.dtype) return {"weights are not of the activations' type"};
  if (a.w.k % 32 != 0) return {"K is not a multiple of 32"};
  if (a.x.dim(0) > kMaxTokens) return {"more than 16 tokens"};
  return kAccepted;
}

// Blocks of 16 warps, one a multiprocessor; or, where those would come in waves, blocks of 8 warps, two (kNarrow) or three
// (kNarrowest) a multiprocessor. Not by the number of tokens: it decides the order of sums.
enum class Width { kWide, kNarrow, kNarrowest };
Width width_of(const SmallArgs& a) {
  const int64_t strips = ceil_div(a.n, 16);
  if (strips <= kOneEach || a.k > kNarrow) return Width::kWide;
  return strips <= kTwoEach ? Width::kNarrow : Width::kNarrowest;
}

// Few strips: all warps of a block share K. `go` takes a kernel and its threads.
template <class T, int kTiles, bool kSend, class Go>
void choose_few(const SmallArgs& a, Go&& go) {
  switch (width_of(a)) {
    case Width::kNarrow: return go(linear_small<T, kTiles, 1, 8, 8, true, kSend, 2>, 256);
    case Width::kNarrowest: return go(linear_small<T, kTiles, 1, 8, 4, true, kSend, 3>, 256);
    case Width::kWide: break;
  }
  if (a.k <= kShallow) return go(linear_small<T, kTiles, 1, 16, 6, true, kSend>, 512);
  go(linear_small<T, kTiles, 1, 16, 8, true, kSend>, 512);
}

template <class T, int kTiles>
void run_typed(const SmallArgs& a, Stream& stream) {
  // Many rows: a warp takes 16 whole ones. Few: the warps of a block share K, with as much of their weights in flight before
  // the grid may read x as the registers of all resident blocks hold.
  const int64_t strips = ceil_div(a.n, 16);
  if (strips >= kManyStrips) {
    launch("linear", linear_small<T, kTiles, 4, 1, 6, false>, dim3(ceil_div(strips, 4)), dim3(128), 0, stream, a, PeerView{});
    return;
  }
  choose_few<T, kTiles, false>(a, [&](auto* kernel, unsigned threads) {
    divide_like_router(kernel);
    launch("linear", kernel, dim3(strips), dim3(threads), 0, stream, a, PeerView{});
  });
}

SmallArgs small_args(const LinearArgs& a) {
  return {a.x.data,
          a.w.values.data,
          {a.bias.data, a.bias.dtype},
          {a.out.data, a.out.dtype},
          static_cast<int>(a.x.dim(0)),
          static_cast<int>(a.w.n),
          static_cast<int>(a.w.k)};
}

void run(const LinearArgs& a, Stream& stream) {
  if (a.x.dim(0) == 0) return;
  SmallArgs s = small_args(a);
  dispatch_16_bit(a.x.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    if (s.tokens <= 8) {
      run_typed<T, 1>(s, stream);
    } else {
      run_typed<T, 2>(s, stream);
    }
  });
}

Verdict supports_send(const LinearSendArgs& a) {
  if (Verdict v = supports(a.linear); !v) return v;
  const Tensor& out = a.linear.out;
  const PeerView* view = peer_view(a.communicator);
  if (view == nullptr) return {"the ranks do not reach each other's memory"};
  if (out.dtype != DType::kBF16) return {"results that ranks sum are not BF16"};
  if (out.bytes() > view->one_step_bytes) return {"the message is too large for one step"};
  if (a.linear.w.n % 16 != 0 || a.linear.w.n >= kManyStrips * 16) return {"N is not a multiple of 16, or large"};
  return kAccepted;
}

void run_send(const LinearSendArgs& a, Stream& stream) {
  if (a.linear.x.dim(0) == 0) return;
  const SmallArgs s = small_args(a.linear);
  const PeerView& view = *peer_view(a.communicator);
  auto go = [&](auto* kernel, unsigned threads) {
    divide_like_router(kernel);
    launch("linear", kernel, dim3(s.n / 16), dim3(threads), 0, stream, s, view);
  };
  using T = __nv_bfloat16;
  if (s.tokens <= 8) return choose_few<T, 1, true>(s, go);
  choose_few<T, 2, true>(s, go);
}

}  // namespace

KernelRow<LinearSendArgs> linear_send_small_row() {
  return {"linear_send_bf16_small", DeviceType::kCuda, "linear_16bit_small, whose results go to the other ranks as well", supports_send,
          nullptr, run_send, true};
}

KernelRow<LinearArgs> linear_small_row() {
  return {"linear_16bit_small", DeviceType::kCuda, "mma.sync with weights as A, bound by weight reads: up to 16 tokens",
          supports, nullptr, run, true};
}

}  // namespace tessera::cuda
