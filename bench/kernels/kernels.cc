// Times CPU kernels on gpt-oss-20b's shapes: the best single launch of many, as bandwidth and as FMA rate, against the
// ceilings measured in the same run. Weights rotate through more memory than the caches hold, as a model's layers do.
// With one thread the best of short launches stays meaningful on a machine that others use.
//
// usage: bench_kernels [auto|avx2|avx512|reference] [substring of a case's name] [threads]
#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "bench/kernels/ceilings.h"
#include "core/error.h"
#include "engine/bandwidth.h"
#include "kernels/table.h"

namespace tessera::bench {
namespace {

constexpr int64_t kH = 2880, kI = 2880, kE = 32, kA = 4, kQ = 64, kK = 8, kD = 64, kV = 201088;
constexpr int64_t kRotation = int64_t{5} << 28;  // 1.3 GB

// A bump allocator over one anonymous mapping with ordinary pages, as a mapped model file has.
class Memory {
 public:
  explicit Memory(int64_t bytes) : size_(bytes) {
    void* map = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) fail(ErrorCode::kOutOfMemory, "no memory for {} bytes", bytes);
    madvise(map, static_cast<size_t>(bytes), MADV_NOHUGEPAGE);
    base_ = static_cast<char*>(map);
  }
  ~Memory() { munmap(base_, static_cast<size_t>(size_)); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  Tensor tensor(DType type, Shape shape) {
    Tensor t{base_ + used_, shape, type, {}};
    used_ += (t.bytes() + 63) / 64 * 64;
    TS_CHECK(used_ <= size_, "{} of {} bytes", used_, size_);
    return t;
  }
  void reset() { used_ = 0; }

 private:
  char* base_;
  int64_t size_, used_ = 0;
};

struct Bench {
  ThreadPool pool;
  Kernels kernels;
  std::string filter;
  double read = 0, fma = 0;
  Memory weights{int64_t{14} << 27}, other{int64_t{3} << 30};
  std::mt19937 random{1};

  Bench(CpuIsa isa, std::string f, int threads) : pool(threads), kernels(Kernels::builtin(isa)), filter(std::move(f)) {
    read = measure_host_bandwidth(pool).best, fma = fma_rate(pool, 7);
    fmt::print("{} threads, read {:.1f} GB/s, FMA {:.0f} GFLOP/s\n\n", pool.size(), read / 1e9, 2 * fma / 1e9);
    fmt::print("{:<34} {:<24} {:>10} {:>8} {:>6} {:>9} {:>6}\n", "case", "kernel", "ms", "GB/s", "%read", "GFLOP/s",
               "%FMA");
  }

  Tensor filled(Memory& memory, DType type, Shape shape) {
    Tensor t = memory.tensor(type, shape);
    std::normal_distribution<float> normal;
    std::vector<float> some(4099);
    for (float& f : some) f = normal(random);
    for (int64_t i = 0; i < t.numel(); ++i) {
      float f = some[static_cast<size_t>(i % 4099)];
      if (type == DType::kF32) t.f32()[i] = f;
      if (type == DType::kBF16) t.as<uint16_t>()[i] = float_to_bf16(f * 0.02f);
      if (type == DType::kU8) t.as<uint8_t>()[i] = static_cast<uint8_t>(f * 100);
    }
    return t;
  }
  Weight weight(DType type, int64_t experts, int64_t n, int64_t k) {
    Weight w{.experts = experts, .n = n, .k = k};
    if (type == DType::kU8) {
      w.format = WeightFormat::kMxfp4;
      w.values = filled(weights, DType::kU8, {experts * n, k / 32, 16});
      w.scales = weights.tensor(DType::kU8, {experts * n, k / 32});
      for (int64_t i = 0; i < w.scales.numel(); ++i)
        w.scales.as<uint8_t>()[i] = static_cast<uint8_t>(118 + random() % 6);
    } else {
      w.values = filled(weights, type, {experts * n, k});
    }
    return w;
  }

  // Runs the op's first row on each of the rotating arguments in turn; bytes and macs are of one run.
  template <class Args>
  void time(const std::string& name, const OpTable<Args>& table, const std::vector<Args>& args, double bytes,
            double macs) {
    const KernelRow<Args>* row = table.choose(args[0]);
    int64_t need = row->workspace ? row->workspace(args[0]) : 0;
    Tensor space = other.tensor(DType::kU8, {need + 64});
    Stream stream{&pool, nullptr, space.data};
    double best = 1e30, begin = seconds_now();
    for (size_t i = 0; i < 2 * args.size() + 3 || seconds_now() - begin < 1; ++i) {
      double start = seconds_now();
      row->launch(args[i % args.size()], stream);
      best = std::min(best, seconds_now() - start);
      if (seconds_now() - begin > 15) break;
    }
    fmt::print("{:<34} {:<24} {:>10.3f} {:>8.2f} {:>6.1f} {:>9.1f} {:>6.1f}\n", name, row->name, best * 1e3,
               bytes / best / 1e9, 100 * bytes / best / read, 2 * macs / best / 1e9, 100 * macs / best / fma);
    std::fflush(stdout);
  }
  bool wanted(const std::string& name) {
    weights.reset(), other.reset();
    return name.find(filter) != std::string::npos;
  }

  void linear(const char* what, DType type, int64_t n, int64_t k, int64_t tokens) {
    std::string name = fmt::format("linear {} {}x{} T={}", what, n, k, tokens);
    if (!wanted(name)) return;
    Tensor x = filled(other, DType::kF32, {tokens, k}), out = other.tensor(DType::kF32, {tokens, n});
    std::vector<LinearArgs> args;
    int64_t copies = 0;
    do args.push_back({x, weight(type, 1, n, k), {}, out});
    while (++copies * args[0].w.bytes() < kRotation && tokens < 64 &&
           args[0].w.bytes() * (copies + 1) < kRotation + (1 << 29));
    time(name, kernels.linear, args, static_cast<double>(args[0].w.bytes()), static_cast<double>(n * k * tokens));
  }

  void moe(DType type, int64_t tokens) {
    std::string name = fmt::format("moe {} 20b T={}", type == DType::kU8 ? "mxfp4" : "bf16", tokens);
    if (!wanted(name)) return;
    Tensor x = filled(other, DType::kF32, {tokens, kH}), out = other.tensor(DType::kF32, {tokens, kH});
    Tensor mix = filled(other, DType::kF32, {tokens, kA});
    std::vector<MoeArgs> args;
    int64_t layers = tokens < 64 ? 3 : 1;
    std::vector<int64_t> used(static_cast<size_t>(kE), 0);
    for (int64_t l = 0; l < layers; ++l) {
      Weight up = weight(type, kE, 2 * kI, kH), down = weight(type, kE, kH, kI);
      for (int repeat = 0; repeat < (tokens < 64 ? 8 : 1); ++repeat) {
        Tensor indices = other.tensor(DType::kI32, {tokens, kA});
        for (int64_t t = 0; t < tokens; ++t) {
          std::vector<int32_t> experts(static_cast<size_t>(kE));
          for (int32_t e = 0; e < kE; ++e) experts[static_cast<size_t>(e)] = e;
          std::shuffle(experts.begin(), experts.end(), random);
          for (int64_t a = 0; a < kA; ++a) indices.i32()[t * kA + a] = experts[static_cast<size_t>(a)];
        }
        if (l == 0 && repeat == 0)
          for (int64_t i = 0; i < tokens * kA; ++i) used[static_cast<size_t>(indices.i32()[i])] = 1;
        args.push_back({.x = x, .indices = indices, .weights = mix, .gate_up = up, .down = down, .out = out});
      }
    }
    int64_t experts = std::count(used.begin(), used.end(), 1);
    double per_expert = static_cast<double>(args[0].gate_up.bytes() + args[0].down.bytes()) / kE;
    time(name, kernels.moe, args, per_expert * static_cast<double>(experts),
         3.0 * static_cast<double>(tokens * kA * kH * kI));
  }

  void attention(int64_t context, int64_t queries, int64_t window) {
    std::string name = fmt::format("attention T={} context={} W={}", queries, context, window);
    if (!wanted(name)) return;
    int64_t page = 16, pages = (context + page - 1) / page;
    std::vector<AttentionArgs> args;
    double keys = static_cast<double>(window ? std::min(context, window + queries) : context), pairs = 0;
    for (int64_t q = 0; q < queries; ++q) {
      int64_t seen = context - queries + q + 1;
      pairs += static_cast<double>(window ? std::min(window, seen) : seen);
    }
    Tensor starts = other.tensor(DType::kI32, {2}), contexts = other.tensor(DType::kI32, {1});
    starts.i32()[0] = 0, starts.i32()[1] = static_cast<int32_t>(queries),
    contexts.i32()[0] = static_cast<int32_t>(context);
    Tensor table = other.tensor(DType::kI32, {1, pages});
    for (int64_t i = 0; i < pages; ++i) table.i32()[i] = static_cast<int32_t>(i);
    Tensor q = filled(other, DType::kF32, {queries, kQ, kD}), out = other.tensor(DType::kF32, {queries, kQ, kD});
    int64_t layers = queries == 1 ? 12 : 1;
    for (int64_t l = 0; l < layers; ++l) {
      KvPages cache{filled(weights, DType::kBF16, {pages, kK, page, kD}),
                    filled(weights, DType::kBF16, {pages, kK, page, kD})};
      args.push_back({.q = q,
                      .cache = cache,
                      .page_table = table,
                      .query_start = starts,
                      .context = contexts,
                      .sinks = {},
                      .window = window,
                      .scale = 0.125f,
                      .max_queries = queries,
                      .max_context = context,
                      .out = out});
    }
    time(name, kernels.attention, args, keys * kK * kD * 4, pairs * kQ * kD * 2);
  }

  void rms_norm(int64_t tokens) {
    std::string name = fmt::format("rms_norm T={}", tokens);
    if (!wanted(name)) return;
    Tensor x = filled(other, DType::kF32, {tokens, kH}), out = other.tensor(DType::kF32, {tokens, kH});
    RmsNormArgs args{x, filled(other, DType::kF32, {tokens, kH}), filled(other, DType::kBF16, {kH}), 1e-5f, false, out};
    time<RmsNormArgs>(name, kernels.rms_norm, {args}, static_cast<double>(4 * out.bytes()), 0);
  }

  void small(int64_t tokens) {
    std::string name = fmt::format("router T={}", tokens);
    if (wanted(name)) {
      RouterArgs args{filled(other, DType::kF32, {tokens, kE}), RouterMode::kSoftmaxOfTopK,
                      other.tensor(DType::kI32, {tokens, kA}), other.tensor(DType::kF32, {tokens, kA})};
      time<RouterArgs>(name, kernels.router, {args}, static_cast<double>(args.logits.bytes()), 0);
    }
    name = fmt::format("rope T={}", tokens);
    if (wanted(name)) {
      RopeArgs args{filled(other, DType::kF32, {tokens, kQ, kD}), filled(other, DType::kF32, {tokens, kD / 2}),
                    filled(other, DType::kF32, {tokens, kD / 2})};
      time<RopeArgs>(name, kernels.rope, {args}, static_cast<double>(2 * args.x.bytes()), 0);
    }
  }
};

}  // namespace
}  // namespace tessera::bench

int main(int argc, char** argv) {
  using namespace tessera;
  std::string isa = argc > 1 ? argv[1] : "auto";
  CpuIsa choice = isa == "avx2"        ? CpuIsa::kAvx2
                  : isa == "avx512"    ? CpuIsa::kAvx512
                  : isa == "reference" ? CpuIsa::kReference
                                       : CpuIsa::kAuto;
  bench::Bench b(choice, argc > 2 ? argv[2] : "", argc > 3 ? std::stoi(argv[3]) : 0);
  for (int64_t tokens : {1, 2, 4, 8, 32, 256, 512}) {
    b.linear("qkv bf16", DType::kBF16, 5120, 2880, tokens);
    b.linear("o bf16", DType::kBF16, 2880, 4096, tokens);
    b.linear("one mxfp4", DType::kU8, 5760, 2880, tokens);
  }
  for (int64_t tokens : {1, 2, 4, 8, 16, 32, 96}) {
    b.linear("small bf16", DType::kBF16, 512, 2880, tokens);
    b.linear("small mxfp4", DType::kU8, 512, 2880, tokens);
  }
  b.linear("router bf16", DType::kBF16, 32, 2880, 1);
  b.linear("router bf16", DType::kBF16, 32, 2880, 512);
  b.linear("lm_head bf16", DType::kBF16, bench::kV, 2880, 1);
  for (int64_t tokens : {1, 2, 4, 16, 64, 256, 512}) b.moe(DType::kU8, tokens);
  for (int64_t context : {128, 1024, 8192}) b.attention(context, 1, 0);
  b.attention(8192, 1, 128);
  b.attention(128, 64, 0);
  b.attention(1024, 16, 0);
  b.attention(512, 512, 0);
  b.attention(4096, 512, 0);
  b.attention(4096, 512, 128);
  for (int64_t tokens : {1, 512}) b.rms_norm(tokens), b.small(tokens);
}
