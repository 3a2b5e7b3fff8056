// One token's experts: how to split gate_up and down over the chip. Rows and shares of K a block, loads in flight, with
// and without programmatic launch. Times each product alone, chained with itself.
#include "bench/kernels/cuda_cases.cuh"
#include "kernels/cuda/moe_bf16_mxfp4.cu"

namespace tessera::bench {
namespace {

using namespace cuda;

__global__ void fill_atoms_kernel(uint8_t* out, int64_t n, uint64_t seed) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n / 8; i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    uint64_t h = mix(seed ^ i);
    if (i * 8 % kAtomBytes >= kAtomValueBytes) h = 0xf4f4f4f4f4f4f4f4ull + (h & 0x0301030103010301ull);
    reinterpret_cast<uint64_t*>(out)[i] = h;
  }
}

// Block: kRowWarps * 16 rows, K over kColumnWarps warps. Grid: (rows / 16 / kRowWarps, slots).
template <int kRowWarps, int kColumnWarps, int kDepth, bool kTouch>
__global__ void __launch_bounds__(32 * kRowWarps* kColumnWarps) gate_up_variant(GroupedArgs a, int strips) {
  wait_for_previous_grid();
  allow_next_grid();
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
  int row_warp = warp % kRowWarps, column_warp = warp / kRowWarps;
  int slot = blockIdx.y, expert = a.indices[slot];
  int row16 = blockIdx.x * kRowWarps + row_warp;
  int begin = a.k_atoms * column_warp / kColumnWarps, count = a.k_atoms * (column_warp + 1) / kColumnWarps - begin;
  const uint8_t* base = a.atoms + ((static_cast<int64_t>(expert) * strips + row16 / 4) * a.k_atoms + begin) * kAtomBytes;
  const bf16* x[1] = {a.x + begin * kAtomColumns + 8 * c};
  float acc[1][4];
  run_atoms<1, kDepth>(acc, base + row16 % 4 * 512 + lane * 16, base + kAtomValueBytes + row16 % 4 * 32 + g * 4, count, x, [&] {
    if (kTouch)
      for (int i = lane; i < count; i += 32) touch(a.x + (begin + i) * kAtomColumns);
  });
  if constexpr (kColumnWarps > 1) {
    __shared__ float partial[kColumnWarps][kRowWarps][16];
    if (c == 0) {
      partial[column_warp][row_warp][2 * g] = acc[0][0];
      partial[column_warp][row_warp][2 * g + 1] = acc[0][2];
    }
    __syncthreads();
    if (column_warp != 0) return;
    acc[0][0] = acc[0][2] = 0;
    for (int s = 0; s < kColumnWarps; ++s) {
      acc[0][0] += partial[s][row_warp][2 * g];
      acc[0][2] += partial[s][row_warp][2 * g + 1];
    }
  }
  if (c == 0) {
    int64_t bias_row = static_cast<int64_t>(expert) * strips * 64 + row16 * 16 + 2 * g;
    static_cast<bf16*>(a.out)[slot * strips * 32 + row16 * 8 + g] =
        __float2bfloat16_rn(swiglu_oai(acc[0][0] + a.bias.at(bias_row), acc[0][2] + a.bias.at(bias_row + 1), a.limit));
  }
}

constexpr int kExperts = 128;

struct Lab {
  Seeds seeds{3};
  Pool pool{seeds};
  cudaStream_t stream;
  double ceiling;
  Tensor up, down, x, h, out, bias, weights;
  std::vector<Tensor> indices;

  template <class... P, class... A>
  void time(const std::string& name, double bytes, void (*kernel)(P...), dim3 grid, dim3 block, const std::function<std::tuple<A...>(int)>& args) {
    double us[2];
    for (int plain = 0; plain < 2; ++plain)
      us[plain] = time_in_graph(stream, 48, 7, [&](int i) {
        Stream s;
        s.native = stream;
        std::apply([&](auto... v) {
          if (plain) {
            kernel<<<grid, block, 0, stream>>>(v...);
          } else {
            cuda::launch("lab", kernel, grid, block, 0, s, v...);
          }
        }, args(i));
      });
    std::printf("%-44s %6.2f us %5.1f %%   plain launch %6.2f us\n", name.c_str(), us[0], bytes / us[0] / 1e3 / ceiling * 100, us[1]);
    std::fflush(stdout);
  }

  template <int R, int C, int D, bool T>
  void up_variant() {
    std::function<std::tuple<GroupedArgs, int>(int)> args = [&](int i) {
      return std::tuple{GroupedArgs{.indices = indices[i % 16].i32(), .pairs = 4, .active = 4, .experts = kExperts, .atoms = up.as<uint8_t>(), .k_atoms = 45, .x = x.as<bf16>(),
                                    .bias = {bias.data, DType::kBF16}, .limit = 7.0f, .out = h.data}, 90};
    };
    time(fmt::format("gate_up {} rows x K/{} depth {}{}", 16 * R, C, D, T ? " touch" : ""), 4.0 * atoms_bytes(1, 5760, 2880), gate_up_variant<R, C, D, T>,
         dim3(360 / R, 4), dim3(32 * R * C), args);
  }
  template <int S, int D>
  void down_variant() {
    std::function<std::tuple<SingleDownArgs, PeerView>(int)> args = [&](int i) {
      return std::tuple{SingleDownArgs{.indices = indices[i % 16].i32(), .experts = kExperts, .weights = weights.f32(), .atoms = down.as<uint8_t>(), .strips = 45, .k_atoms = 45,
                                       .x = h.as<bf16>(), .bias = {bias.data, DType::kBF16}, .out = out.as<bf16>()},
                        PeerView{}};
    };
    time(fmt::format("down 16 rows x 4 experts x K/{} depth {}", S, D), 4.0 * atoms_bytes(1, 2880, 2880), moe_down_single<S, D, false>, dim3(180), dim3(128 * S), args);
  }

  void run() {
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
    ceiling = read_bandwidth(stream);
    up = pool.raw(DType::kU8, {atoms_bytes(kExperts, 5760, 2880)});
    down = pool.raw(DType::kU8, {atoms_bytes(kExperts, 2880, 2880)});
    fill_atoms_kernel<<<4096, 256>>>(up.as<uint8_t>(), up.numel(), 5);
    fill_atoms_kernel<<<4096, 256>>>(down.as<uint8_t>(), down.numel(), 6);
    x = pool.normal(DType::kBF16, {2880}, 1.0f), h = pool.normal(DType::kBF16, {4, 2880}, 1.0f), out = pool.raw(DType::kBF16, {2880});
    bias = pool.normal(DType::kBF16, {int64_t{kExperts} * 5760}, 0.1f), weights = pool.normal(DType::kF32, {4}, 0.5f);
    std::vector<int32_t> order(128);
    std::iota(order.begin(), order.end(), 0);
    for (int i = 127; i > 0; --i) std::swap(order[i], order[seeds.below(i + 1)]);
    for (int i = 0; i < 16; ++i) indices.push_back(pool.ints({order[4 * i], order[4 * i + 1], order[4 * i + 2], order[4 * i + 3]}, {4}));
    up_variant<4, 1, 5, true>();
    up_variant<1, 4, 4, true>();
    up_variant<1, 4, 6, true>();
    up_variant<1, 3, 8, true>();
    up_variant<2, 3, 8, true>();
    up_variant<1, 6, 8, true>();
    down_variant<2, 4>();
    down_variant<2, 8>();
    down_variant<2, 12>();
    down_variant<3, 8>();
    down_variant<4, 6>();
    down_variant<4, 4>();
  }
};

}  // namespace
}  // namespace tessera::bench

int main() {
  tessera::bench::Lab lab;
  lab.run();
}
