// Times the CUDA rows at gpt-oss shapes inside CUDA graphs, operands rotated through more memory than the L2 holds, as
// time, bytes or operations, and per cent of the read bandwidth that the program measures first.
//   cuda_time ops | small | linear | fp8 | fused | moe | prefill | attention | sample | step [layers experts [unfused | fp8]]
// `ops`: one row a shape. `step`: all kernels of a decode step chained in one graph, random weights.
#include <cstring>

#include "bench/kernels/cuda_cases.cuh"
#include "kernels/cuda/device/ptx.cuh"

namespace tessera::bench {
namespace {

constexpr int64_t kHidden = 2880, kVocab = 201088;

struct Bench {
  Kernels kernels;
  Seeds seeds{20260101};
  cudaStream_t stream;
  double ceiling = 0;  // GB/s
  Buffer workspace{int64_t{1} << 30};

  Stream at() const {
    Stream s;
    s.native = stream;
    s.workspace = workspace.data();
    return s;
  }
  template <class Args>
  void run(const OpTable<Args>& table, const Args& args) const {
    const KernelRow<Args>* row = table.choose(args);
    TS_CHECK(row != nullptr && (!row->workspace || row->workspace(args) <= workspace.bytes()));
    Stream s = at();
    row->launch(args, s);
  }
  void memory_line(const std::string& what, double bytes, double us) const {
    std::printf("%-52s %9.2f us %9.2f MB %8.1f GB/s %5.1f %%\n", what.c_str(), us, bytes / 1e6, bytes / us / 1e3,
                bytes / us / 1e3 / ceiling * 100);
    std::fflush(stdout);
  }
  void compute_line(const std::string& what, double flop, double us) const {
    std::printf("%-52s %9.2f us %9.2f GFLOP %7.1f TFLOP/s\n", what.c_str(), us, flop / 1e9, flop / us / 1e6);
    std::fflush(stdout);
  }
};

__global__ void empty_kernel() { cuda::wait_for_previous_grid(); }

__global__ void fill_atoms_kernel(uint8_t* out, int64_t n, uint64_t seed) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n / 8;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    uint64_t h = mix(seed ^ i);
    if (i * 8 % cuda::kAtomBytes >= cuda::kAtomValueBytes) h = 0xf4f4f4f4f4f4f4f4ull + (h & 0x0301030103010301ull);
    reinterpret_cast<uint64_t*>(out)[i] = h;
  }
}

Weight random_atoms(Pool& pool, int64_t experts, int64_t n, int64_t k) {
  Weight w;
  w.format = WeightFormat::kMxfp4Atoms;
  w.values = pool.raw(DType::kU8, {experts, n / 64, k / 64, cuda::kAtomBytes});
  fill_atoms_kernel<<<4096, 256>>>(w.values.as<uint8_t>(), w.values.numel(), pool.seeds().next());
  check(cudaGetLastError(), "fill_atoms");
  w.experts = experts;
  w.n = n;
  w.k = k;
  return w;
}

void time_linear(Bench& b) {
  Pool pool(b.seeds);
  int64_t slots = int64_t{3} << 29;  // 1.6 G values of bf16 = 3.2 GB
  Tensor weights = pool.normal(DType::kBF16, {slots}, 0.05f);
  Tensor x = pool.normal(DType::kBF16, {8192, 4096}, 1.0f), bias = pool.normal(DType::kBF16, {kVocab}, 1.0f);
  Tensor out = pool.raw(DType::kF32, {256, kVocab});
  auto one = [&](const char* what, int64_t t, int64_t n, int64_t k, DType out_type, int count) {
    int64_t copies = slots / (n * k);
    double us = time_in_graph(b.stream, count, 7, [&](int i) {
      LinearArgs a;
      a.x = tensor(x.data, DType::kBF16, {t, k});
      a.w.values = tensor(weights.as<uint16_t>() + i % copies * n * k, DType::kBF16, {n, k});
      a.w.n = n;
      a.w.k = k;
      if (out_type == DType::kBF16) a.bias = tensor(bias.data, DType::kBF16, {n});  // lm_head has none
      a.out = tensor(out.data, out_type, {t, n});
      b.run(b.kernels.linear, a);
    });
    double bytes = 2.0 * n * k + 2.0 * t * k + static_cast<double>(dtype_size(out_type)) * t * n;
    std::string name = fmt::format("linear {} T={} [{}, {}]", what, t, n, k);
    if (t <= 256) b.memory_line(name, bytes, us);
    if (t >= 64) b.compute_line(name, 2.0 * t * n * k, us);
  };
  for (int64_t t : {1, 2, 4, 8, 16, 32, 64, 128, 256}) {
    one("qkv", t, 5120, kHidden, DType::kBF16, 80);
    one("o", t, kHidden, 4096, DType::kBF16, 80);
    if (t == 1 || t == 16) one("q", t, 4096, kHidden, DType::kBF16, 80);
    if (t == 1 || t == 16) one("k", t, 512, kHidden, DType::kBF16, 80);
    if (t <= 64) one("router", t, 32, kHidden, DType::kBF16, 80);
    one("lm_head", t, kVocab, kHidden, DType::kF32, 4);
  }
  for (int64_t t : {2048, 8192}) {
    one("qkv", t, 5120, kHidden, DType::kBF16, 8);
    one("o", t, kHidden, 4096, DType::kBF16, 8);
  }
}

void time_fp8(Bench& b) {
  Pool pool(b.seeds);
  int64_t slots = int64_t{3} << 29;
  Tensor weights = pool.raw(DType::kF8E4M3, {slots});
  fill_bytes(weights.data, slots, 0, 127, pool.seeds().next());
  Tensor scales = pool.normal(DType::kF32, {kVocab}, 0.001f), x = pool.normal(DType::kBF16, {8192, 4096}, 1.0f);
  Tensor bias = pool.normal(DType::kBF16, {kVocab}, 1.0f), out = pool.raw(DType::kF32, {256, kVocab});
  auto one = [&](const char* what, int64_t t, int64_t n, int64_t k, DType out_type, int count) {
    int64_t copies = slots / (n * k);
    double us = time_in_graph(b.stream, count, 7, [&](int i) {
      LinearArgs a;
      a.x = tensor(x.data, DType::kBF16, {t, k});
      a.w.format = WeightFormat::kFp8Rows;
      a.w.values = tensor(weights.as<uint8_t>() + i % copies * n * k, DType::kF8E4M3, {n, k});
      a.w.scales = tensor(scales.data, DType::kF32, {n});
      a.w.n = n;
      a.w.k = k;
      if (out_type == DType::kBF16) a.bias = tensor(bias.data, DType::kBF16, {n});
      a.out = tensor(out.data, out_type, {t, n});
      b.run(b.kernels.linear, a);
    });
    std::string name = fmt::format("linear fp8 {} T={} [{}, {}]", what, t, n, k);
    if (t <= 256) b.memory_line(name, 1.0 * n * k + 2.0 * t * k + static_cast<double>(dtype_size(out_type)) * t * n, us);
    if (t >= 64) b.compute_line(name, 2.0 * t * n * k, us);
  };
  for (int64_t t : {1, 8, 16, 32, 64, 128, 256}) {
    one("qkv", t, 5120, kHidden, DType::kBF16, 80);
    one("o", t, kHidden, 4096, DType::kBF16, 80);
    one("lm_head", t, kVocab, kHidden, DType::kF32, 4);
  }
  one("qkv", 2048, 5120, kHidden, DType::kBF16, 8);
  one("o", 2048, kHidden, 4096, DType::kBF16, 8);
}

// The fused ops of a decode step at gpt-oss shapes.
void time_fused(Bench& b) {
  const DType act = DType::kBF16;
  for (int64_t experts : {32, 128})
    for (int64_t t : {24, 64, 256}) {
      Pool pool(b.seeds);
      NormRouterArgs a;
      a.residual = pool.normal(act, {t, kHidden}, 1.0f);
      a.delta = pool.normal(act, {t, kHidden}, 0.001f);
      a.norm_weight = pool.normal(act, {kHidden}, 1.0f);
      a.router = pool.plain(act, experts, kHidden, 0.02f);
      a.router_bias = pool.normal(act, {experts}, 1.0f);
      a.normed = pool.raw(act, {t, kHidden});
      a.logits = pool.raw(act, {t, experts});
      a.indices = pool.raw(DType::kI32, {t, 4});
      a.weights = pool.raw(DType::kF32, {t, 4});
      double us = time_in_graph(b.stream, 100, 7, [&](int) { b.run(b.kernels.norm_router, a); });
      b.memory_line(fmt::format("norm + router + top-4 T={} E={}", t, experts), 2.0 * experts * kHidden + t * kHidden * 8.0, us);
    }
}

void time_moe(Bench& b, int64_t experts, int64_t layers, std::vector<int64_t> batches) {
  Pool pool(b.seeds);
  std::vector<Weight> up, down;
  for (int64_t l = 0; l < layers; ++l) {
    up.push_back(random_atoms(pool, experts, 2 * kHidden, kHidden));
    down.push_back(random_atoms(pool, experts, kHidden, kHidden));
  }
  int64_t most = 8192, active = 4;
  Tensor x = pool.normal(DType::kBF16, {most, kHidden}, 1.0f), out = pool.raw(DType::kBF16, {most, kHidden});
  Tensor weights = pool.normal(DType::kF32, {most, active}, 0.5f);
  Tensor up_bias = pool.normal(DType::kBF16, {experts, 2 * kHidden}, 0.5f), down_bias = pool.normal(DType::kBF16, {experts, kHidden}, 0.5f);
  for (int64_t t : batches) {
    int count = t <= 8 ? 24 : t <= 512 ? 12 : 3;
    std::vector<Tensor> indices;
    double distinct = 0;
    for (int i = 0; i < count; ++i) {
      std::vector<int32_t> routes = random_routes(b.seeds, t, active, experts);
      indices.push_back(pool.ints(routes, {t, active}));
      std::sort(routes.begin(), routes.end());
      distinct += static_cast<double>(std::unique(routes.begin(), routes.end()) - routes.begin()) / count;
    }
    auto args = [&](int i) {
      MoeArgs a;
      a.x = x.rows(0, t);
      a.indices = indices[i];
      a.weights = weights.rows(0, t);
      a.gate_up = up[i % layers];
      a.down = down[i % layers];
      a.gate_up_bias = up_bias;
      a.down_bias = down_bias;
      a.out = out.rows(0, t);
      return a;
    };
    for (const KernelRow<MoeArgs>& row : b.kernels.moe.rows) {
      if (!row.supports(args(0))) continue;
      TS_CHECK(row.workspace(args(0)) <= b.workspace.bytes());
      double us = time_in_graph(b.stream, count, 7, [&](int i) {
        Stream s = b.at();
        row.launch(args(i), s);
      });
      double bytes = distinct * (cuda::atoms_bytes(1, 2 * kHidden, kHidden) + cuda::atoms_bytes(1, kHidden, kHidden)) +
                     t * kHidden * 2.0 * (2 + 2 * active);
      std::string name = fmt::format("{} T={} E={} ({:.1f})", row.name, t, experts, distinct);
      if (t <= 512) b.memory_line(name, bytes, us);
      if (t >= 64) b.compute_line(name, 6.0 * kHidden * kHidden * t * active, us);
    }
  }
}

void time_attention(Bench& b) {
  const KernelRow<KvWriteArgs>& write = b.kernels.kv_write.rows[0];
  auto one = [&](int64_t batch, int32_t queries, int32_t context, int64_t window, int copies) {
    Pool pool(b.seeds);
    std::vector<AttentionCase> cases;
    for (int i = 0; i < copies; ++i)
      cases.push_back(attention_case(pool, std::vector<int32_t>(batch, queries), std::vector<int32_t>(batch, context), 64, 8, 64, 64,
                                     window, true, DType::kBF16, write, false));
    double us = time_in_graph(b.stream, copies * 2, 7, [&](int i) { b.run(b.kernels.attention, cases[i % copies].args); });
    double keys = window > 0 ? std::min<double>(context, window) : context;
    std::string name = fmt::format("attention B={} queries={} ctx={} W={}", batch, queries, context, window);
    if (queries == 1) {
      b.memory_line(name, batch * (keys * 2048 + 2 * 64 * 64 * 2), us);
    } else {
      double pairs = window > 0 ? static_cast<double>(queries) * window : queries * (queries + 1) / 2.0;
      b.compute_line(name, batch * 4.0 * 64 * 64 * pairs, us);
    }
  };
  one(1, 1, 128, 128, 40);
  one(1, 1, 1024, 0, 40);
  one(1, 1, 4096, 0, 30);
  one(1, 1, 4096, 128, 30);
  one(1, 1, 32768, 0, 3);
  one(8, 1, 4096, 0, 4);
  one(32, 1, 192, 0, 20);
  one(64, 1, 1024, 0, 2);
  one(256, 1, 192, 0, 4);
  one(256, 1, 192, 128, 4);
  one(1, 2048, 2048, 0, 4);
  one(1, 2048, 2048, 128, 4);
  one(1, 8192, 8192, 0, 1);
  one(1, 8192, 8192, 128, 1);
}

void time_small(Bench& b) {
  Pool pool(b.seeds);
  auto time = [&](const std::string& what, double bytes, const std::function<void(int)>& call) {
    b.memory_line(what, bytes, time_in_graph(b.stream, 100, 7, call));
  };
  Stream s = b.at();
  time("empty kernel, programmatic launch", 0, [&](int) { cuda::launch("empty", empty_kernel, dim3(1), dim3(32), 0, s); });
  time("empty kernel, plain launch", 0, [&](int) { empty_kernel<<<1, 32, 0, b.stream>>>(); });
  for (int64_t t : {1, 32, 64, 256, 2048}) {
    RmsNormArgs norm;
    norm.residual = pool.normal(DType::kBF16, {t, kHidden}, 1.0f);
    norm.delta = pool.normal(DType::kBF16, {t, kHidden}, 0.001f);
    norm.weight = pool.normal(DType::kBF16, {kHidden}, 1.0f);
    norm.out = pool.raw(DType::kBF16, {t, kHidden});
    time(fmt::format("rms_norm + residual T={}", t), t * kHidden * 8.0, [&](int) { b.run(b.kernels.rms_norm, norm); });
    RouterArgs router;
    router.logits = pool.normal(DType::kBF16, {t, 32}, 1.0f);
    router.indices = pool.raw(DType::kI32, {t, 4});
    router.weights = pool.raw(DType::kF32, {t, 4});
    time(fmt::format("router T={} E=32", t), t * 96.0, [&](int) { b.run(b.kernels.router, router); });
    RopeArgs rope{pool.normal(DType::kBF16, {t, 64, 64}, 1.0f), pool.normal(DType::kBF16, {t, 32}, 0.7f),
                  pool.normal(DType::kBF16, {t, 32}, 0.7f)};
    time(fmt::format("rope T={} 64 heads", t), t * 64 * 64 * 4.0, [&](int) { b.run(b.kernels.rope, rope); });
    std::vector<int32_t> slots(static_cast<size_t>(t));
    std::iota(slots.begin(), slots.end(), 0);
    KvWriteArgs kv{pool.normal(DType::kBF16, {t, 8, 64}, 1.0f), pool.normal(DType::kBF16, {t, 8, 64}, 1.0f), pool.ints(slots, {t}),
                   {pool.raw(DType::kBF16, {t / 64 + 1, 8, 64, 64}), pool.raw(DType::kBF16, {t / 64 + 1, 8, 64, 64})}};
    time(fmt::format("kv_write T={}", t), t * 8 * 64 * 8.0, [&](int) { b.run(b.kernels.kv_write, kv); });
    RopeKvArgs rotated{rope.x, kv.k, kv.v, rope.cos, rope.sin, kv.slots, kv.cache};
    time(fmt::format("rope + cache T={}", t), t * (64 * 2 + 8 * 4) * 64 * 2.0, [&](int) { b.run(b.kernels.rope_kv, rotated); });
    AddArgs add{norm.residual, norm.delta};
    time(fmt::format("add T={}", t), t * kHidden * 6.0, [&](int) { b.run(b.kernels.add, add); });
  }
}

// The chain from logits to ids. Bytes are those of reading the logits once.
void time_sample(Bench& b) {
  struct Kind {
    const char* name;
    SampleSettings settings;
  };
  const Kind kinds[] = {{"greedy", {.temperature = 0}},
                        {"temperature 1", {.uniform = 0.7}},
                        {"temperature 1, min-p 0.05", {.min_p = 0.05, .uniform = 0.7}},
                        {"top-k 50", {.uniform = 0.7, .top_k = 50}},
                        {"top-p 0.95", {.top_p = 0.95, .uniform = 0.7}},
                        {"greedy, 5 log-probabilities", {.temperature = 0, .logprobs = 5}}};
  for (int64_t rows : {1, 8, 64, 256})
    for (const Kind& kind : kinds)
      for (float spread : {1.0f, 4.0f}) {  // flat: thousands of likely tokens; peaked: a few hundred
        if (spread == 1.0f && kind.settings.top_p == 1.0) continue;
        Pool pool(b.seeds);
        int64_t copies = std::max<int64_t>(1, 160 / rows);
        Tensor logits = pool.normal(DType::kF32, {copies * rows, kVocab}, spread);
        std::vector<SampleSettings> settings(static_cast<size_t>(rows), kind.settings);
        SampleArgs a;
        a.settings = pool.raw(DType::kU8, {rows, sizeof(SampleSettings)});
        check(cudaMemcpy(a.settings.data, settings.data(), settings.size() * sizeof(SampleSettings), cudaMemcpyHostToDevice), "upload");
        a.any_random = kind.settings.temperature > 0;
        a.any_cut = kind.settings.top_k > 0 || kind.settings.top_p < 1;
        a.any_logprobs = kind.settings.logprobs >= 0;
        a.ids = pool.raw(DType::kI32, {rows});
        a.logprobs = pool.raw(DType::kF32, {rows});
        a.top_ids = pool.raw(DType::kI32, {rows, kMaxSampleLogprobs});
        a.top_logprobs = pool.raw(DType::kF32, {rows, kMaxSampleLogprobs});
        double us = time_in_graph(b.stream, static_cast<int>(std::min<int64_t>(copies, 20)), 7, [&](int i) {
          a.logits = logits.rows(i % copies * rows, rows);
          b.run(b.kernels.sample, a);
        });
        b.memory_line(fmt::format("sample R={} {}{}", rows, kind.name, spread == 1.0f ? ", flat" : ""), rows * kVocab * 4.0, us);
      }
}

struct Layer {
  Weight qkv, o, router, up, down;
  Tensor qkv_bias, o_bias, router_bias, up_bias, down_bias, norm1, norm2, sinks;
};

Weight rows_of(const Weight& w, int64_t first, int64_t n) {
  Weight part = w;
  part.n = n;
  part.values = w.values.rows(first, n);
  if (w.scales.defined()) part.scales = w.scales.rows(first, n);
  return part;
}

// The kernels of a whole decode step as the layers call them, one graph, `layers` layers of a gpt-oss.
void time_step(Bench& b, int64_t layers, int64_t experts, const std::string& kind) {
  const bool fused = kind != "unfused", fp8 = kind == "fp8";
  Pool pool(b.seeds);
  const DType act = DType::kBF16;
  std::vector<Layer> model;
  auto vec = [&](Shape s) { return pool.normal(act, s, 0.1f); };
  for (int64_t i = 0; i < layers; ++i) {
    Layer l;
    l.qkv = pool.plain(act, 5120, kHidden, 0.02f);
    l.o = pool.plain(act, kHidden, 4096, 0.02f);
    if (fp8)
      for (Weight* w : {&l.qkv, &l.o}) *w = fp8_of(pool, w->values);
    l.router = pool.plain(act, experts, kHidden, 0.02f);
    l.up = random_atoms(pool, experts, 2 * kHidden, kHidden);
    l.down = random_atoms(pool, experts, kHidden, kHidden);
    l.qkv_bias = vec({5120}), l.o_bias = vec({kHidden}), l.router_bias = vec({experts});
    l.up_bias = vec({experts, 2 * kHidden}), l.down_bias = vec({experts, kHidden}), l.norm1 = vec({kHidden});
    l.norm2 = vec({kHidden}), l.sinks = vec({64});
    model.push_back(l);
  }
  Weight head = pool.plain(act, kVocab, kHidden, 0.02f);
  if (fp8) head = fp8_of(pool, head.values);
  const double dense = fp8 ? 1.0 : 2.0;  // bytes a weight
  Tensor final_norm = vec({kHidden});
  check(cudaDeviceSynchronize(), "weights");
  for (auto [t, context] : {std::pair<int64_t, int64_t>{1, 128}, {1, 4096}, {8, 192}, {32, 192}, {64, 192}, {256, 192}}) {
    if (experts > 32 && t > 32) continue;
    Pool step(b.seeds);
    const int64_t page = 64, per_sequence = cuda::ceil_div(context, page);
    Tensor embedding = step.normal(act, {1024, kHidden}, 1.0f);
    std::vector<int32_t> ids, slots, table, starts{0}, contexts, positions;
    for (int64_t i = 0; i < t; ++i) {
      ids.push_back(static_cast<int32_t>(b.seeds.below(1024)));
      for (int64_t p = 0; p < per_sequence; ++p) table.push_back(static_cast<int32_t>(i * per_sequence + p));
      slots.push_back(static_cast<int32_t>(table.back() * page + (context - 1) % page));
      starts.push_back(static_cast<int32_t>(i + 1));
      contexts.push_back(static_cast<int32_t>(context));
      positions.push_back(static_cast<int32_t>(context - 1));
    }
    Tensor id = step.ints(ids, {t}), slot = step.ints(slots, {t}), pages = step.ints(table, {t, per_sequence}),
           start = step.ints(starts, {t + 1}), length = step.ints(contexts, {t}), position = step.ints(positions, {t});
    std::vector<KvPages> cache;
    for (int64_t i = 0; i < layers; ++i)
      cache.push_back({step.normal(act, {t * per_sequence, 8, page, 64}, 1.0f), step.normal(act, {t * per_sequence, 8, page, 64}, 1.0f)});
    Tensor residual = step.raw(act, {t, kHidden}), delta = step.raw(act, {t, kHidden}), x = step.raw(act, {t, kHidden});
    Tensor packed = step.raw(act, {t, 80, 64}), q = step.raw(act, {t, 64, 64}), k = step.raw(act, {t, 8, 64}), v = step.raw(act, {t, 8, 64}), mixed = step.raw(act, {t, 64, 64});
    Tensor cos = step.raw(act, {t, 32}), sin = step.raw(act, {t, 32});
    std::vector<float> frequencies(32, 0.01f);
    const Tensor freq{frequencies.data(), {32}, DType::kF32, Device{}};
    Tensor logits = step.raw(act, {t, experts}), index = step.raw(DType::kI32, {t, 4}), weight = step.raw(DType::kF32, {t, 4});
    Tensor vocabulary = step.raw(DType::kF32, {t, kVocab});
    // The router runs, but the experts follow uniform routes: a random model sends similar tokens to few experts.
    std::vector<Tensor> routes;
    double distinct = 0;
    for (int64_t i = 0; i < layers; ++i) {
      std::vector<int32_t> r = random_routes(b.seeds, t, 4, experts);
      routes.push_back(step.ints(r, {t, 4}));
      std::sort(r.begin(), r.end());
      distinct += static_cast<double>(std::unique(r.begin(), r.end()) - r.begin());
    }
    auto linear = [&](const Tensor& in, const Weight& w, const Tensor& bias, Tensor out) {
      b.run(b.kernels.linear, LinearArgs{in.reshape({t, w.k}), w, bias, out.reshape({t, w.n})});
    };
    int launches = 0;
    double us = time_in_graph(b.stream, 1, 15, [&](int) {
      b.run(b.kernels.embed, EmbedArgs{id, embedding, residual});
      b.run(b.kernels.rope_table, RopeTableArgs{position, freq, 1.3466f, cos, sin});
      for (int64_t i = 0; i < layers; ++i) {
        const Layer& l = model[i];
        b.run(b.kernels.rms_norm, RmsNormArgs{residual, {}, l.norm1, 1e-5f, false, x});
        const AttentionArgs attended{q, cache[i], pages, start, length, l.sinks, i % 2 == 0 ? 128 : 0, 0.125f, 1, context, mixed};
        if (fused) {
          linear(x, l.qkv, l.qkv_bias, packed);
          b.run(b.kernels.rope_attention, RopeAttentionArgs{{q, {}, {}, cos, sin, slot, cache[i], packed}, attended});
        } else {
          linear(x, rows_of(l.qkv, 0, 4096), l.qkv_bias.rows(0, 4096), q);
          linear(x, rows_of(l.qkv, 4096, 512), l.qkv_bias.rows(4096, 512), k);
          linear(x, rows_of(l.qkv, 4608, 512), l.qkv_bias.rows(4608, 512), v);
          b.run(b.kernels.rope, RopeArgs{q, cos, sin});
          b.run(b.kernels.rope, RopeArgs{k, cos, sin});
          b.run(b.kernels.kv_write, KvWriteArgs{k, v, slot, cache[i]});
          b.run(b.kernels.attention, attended);
        }
        linear(mixed, l.o, l.o_bias, delta);
        const NormRouterArgs routed{residual, delta, l.norm2, 1e-5f, false, l.router, l.router_bias, RouterMode::kSoftmaxOfTopK, x,
                                    logits, index, weight};
        if (fused && b.kernels.norm_router.choose(routed)) {
          b.run(b.kernels.norm_router, routed);
        } else {
          b.run(b.kernels.rms_norm, RmsNormArgs{residual, delta, l.norm2, 1e-5f, false, x});
          linear(x, l.router, l.router_bias, logits);
          b.run(b.kernels.router, RouterArgs{logits, RouterMode::kSoftmaxOfTopK, index, weight});
        }
        MoeArgs experts_args{x, routes[i], weight, l.up, l.up_bias, l.down, l.down_bias};
        experts_args.out = delta;
        const MoeAddArgs added{experts_args, residual};
        if (fused && b.kernels.moe_add.choose(added)) {
          b.run(b.kernels.moe_add, added);
        } else {
          b.run(b.kernels.moe, experts_args);
          b.run(b.kernels.add, AddArgs{residual, delta});
        }
      }
      b.run(b.kernels.rms_norm, RmsNormArgs{residual, {}, final_norm, 1e-5f, false, x});
      linear(x, head, {}, vocabulary);
      ++launches;
    });
    std::vector<double> last = download(vocabulary);
    bool finite = true;
    for (double value : last) finite = finite && std::isfinite(value);
    double bytes = layers * (dense * (5120 * kHidden + 4096 * kHidden) + 2.0 * experts * kHidden +
                             t * 2048.0 * (context + std::min<int64_t>(context, 128)) / 2) +
                   distinct * (cuda::atoms_bytes(1, 2 * kHidden, kHidden) + cuda::atoms_bytes(1, kHidden, kHidden)) +
                   dense * kVocab * kHidden;
    b.memory_line(fmt::format("{} step E={} L={} T={} ctx={}: {:.0f} tok/s{}", kind, experts, layers, t, context, t * 1e6 / us,
                              finite ? "" : " NOT FINITE"),
                  bytes, us);
  }
}

int main_of(int argc, char** argv) {
  Bench b;
  check(cudaStreamCreateWithFlags(&b.stream, cudaStreamNonBlocking), "stream");
  add_cuda_kernels(b.kernels);
  cudaDeviceProp device;
  check(cudaGetDeviceProperties(&device, 0), "device");
  b.ceiling = read_bandwidth(b.stream);
  std::printf("%s, %d multiprocessors, read bandwidth %.0f GB/s\n", device.name, device.multiProcessorCount, b.ceiling);
  std::string what = argc > 1 ? argv[1] : "ops";
  auto chosen = [&](const char* name) { return what == name || what == "ops"; };
  if (chosen("small")) time_small(b);
  if (chosen("linear")) time_linear(b);
  if (chosen("fp8")) time_fp8(b);
  if (chosen("fused")) time_fused(b);
  if (chosen("moe")) {
    time_moe(b, 32, 3, {1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256});
    time_moe(b, 16, 3, {128});
    time_moe(b, 128, 1, {1, 4, 16, 64, 256});
  }
  if (chosen("prefill")) {
    time_moe(b, 32, 3, {256, 512, 1024, 2048, 4096, 8192});
    time_moe(b, 128, 1, {2048, 8192});
  }
  if (chosen("attention")) time_attention(b);
  if (chosen("sample")) time_sample(b);
  if (what == "step") time_step(b, argc > 2 ? std::atoi(argv[2]) : 24, argc > 3 ? std::atoi(argv[3]) : 32, argc > 4 ? argv[4] : "fused");
  return 0;
}

}  // namespace
}  // namespace tessera::bench

int main(int argc, char** argv) {
  try {
    return tessera::bench::main_of(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "cuda_time: %s\n", e.what());
    return 1;
  }
}
