// How to split one small product over the chip: warps over K, loads in flight, rows a block. Times linear_small's kernel
// template at gpt-oss's qkv, q, o and k shapes with and without programmatic launch.
#include "bench/kernels/cuda_cases.cuh"
#include "kernels/cuda/linear_small.cu"

namespace tessera::bench {
namespace {

template <int kRowWarps, int kColumnWarps, int kDepth, bool kPrefetch>
void one(cudaStream_t stream, const Tensor& weights, const Tensor& x, const Tensor& out, int64_t n, int64_t k, double ceiling) {
  int64_t copies = weights.numel() / (n * k);
  auto kernel = cuda::linear_small<__nv_bfloat16, 1, kRowWarps, kColumnWarps, kDepth, kPrefetch>;
  double us[2];
  for (int plain = 0; plain < 2; ++plain)
    us[plain] = time_in_graph(stream, 80, 7, [&](int i) {
      cuda::SmallArgs a{x.data, weights.as<uint16_t>() + i % copies * n * k, {}, {out.data, DType::kBF16}, 1, static_cast<int>(n), static_cast<int>(k)};
      dim3 grid(cuda::ceil_div(n, 16 * kRowWarps)), block(32 * kRowWarps * kColumnWarps);
      if (plain) {
        kernel<<<grid, block, 0, stream>>>(a, cuda::PeerView{});
      } else {
        Stream s;
        s.native = stream;
        cuda::launch("linear", kernel, grid, block, 0, s, a, cuda::PeerView{});
      }
    });
  std::printf("[%lld, %lld] rows %d x K %d warps, depth %d%s: %6.2f us %4.1f %%   plain launch %6.2f us\n", (long long)n, (long long)k,
              kRowWarps, kColumnWarps, kDepth, kPrefetch ? " + L2 prefetch" : "", us[0], 2e-3 * n * k / us[0] / ceiling * 100, us[1]);
}

int run_all() {
  Seeds seeds{1};
  cudaStream_t stream;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  double ceiling = read_bandwidth(stream);
  Pool pool(seeds);
  Tensor w = pool.normal(DType::kBF16, {int64_t{1} << 30}, 0.1f), x = pool.normal(DType::kBF16, {16, 4096}, 1.0f), out = pool.raw(DType::kBF16, {16, 8192});
  for (auto [n, k] : {std::pair<int64_t, int64_t>{5120, 2880}, {4096, 2880}, {2880, 4096}, {512, 2880}}) {
    one<1, 16, 6, false>(stream, w, x, out, n, k, ceiling);
    one<1, 16, 6, true>(stream, w, x, out, n, k, ceiling);
    one<1, 15, 6, false>(stream, w, x, out, n, k, ceiling);
    one<1, 22, 6, false>(stream, w, x, out, n, k, ceiling);
    one<1, 18, 5, false>(stream, w, x, out, n, k, ceiling);
    one<1, 16, 8, false>(stream, w, x, out, n, k, ceiling);
    one<1, 30, 3, false>(stream, w, x, out, n, k, ceiling);
  }
  return 0;
}

}  // namespace
}  // namespace tessera::bench

int main() { return tessera::bench::run_all(); }
