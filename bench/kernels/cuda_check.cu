// Checks every CUDA row against F64 on fresh random operands and poisoned outputs: one line a case, exit 1 if any fails.
//   cuda_check [seed [small | linear | fp8 | moe | attention | fused | sample | repeats]]
#include <cstring>
#include <limits>
#include <map>

#include "bench/kernels/cuda_cases.cuh"

namespace tessera::bench {
namespace {

struct Report {
  int failed = 0;
  int cases = 0;
  // bf16 rounding of the result alone is about 1.7e-3 relative; inner roundings add to it.
  void line(const char* row, const std::string& what, double error, double bound) {
    bool good = error <= bound;  // NaN fails
    failed += !good;
    ++cases;
    std::printf("%-24s %-58s %.2e %s\n", row, what.c_str(), error, good ? "ok" : "FAILED");
    std::fflush(stdout);
  }
};

double bound_of(DType t) { return t == DType::kBF16 ? 4e-3 : t == DType::kF16 ? 6e-4 : 2e-5; }
std::string name(DType t) { return std::string(dtype_name(t)); }

// Runs each accepting row of a table on the same arguments with a poisoned output.
template <class Args, class Check>
void each_row(const OpTable<Args>& table, const Args& args, const Tensor& out, Check&& judge) {
  for (const KernelRow<Args>& row : table.rows) {
    if (!table.judge(row, args)) continue;
    check(cudaMemset(out.data, 0xff, static_cast<size_t>(out.bytes())), "poison");
    Buffer workspace(row.workspace ? row.workspace(args) : 0);
    check(cudaMemset(workspace.data(), 0xff, static_cast<size_t>(workspace.bytes())), "poison");
    Stream stream;
    stream.workspace = workspace.data();
    row.launch(args, stream);
    check(cudaDeviceSynchronize(), row.name);
    judge(row.name);
  }
}

void check_linear(const Kernels& kernels, Seeds& seeds, Report& report) {
  struct Case {
    int64_t t, n, k;
    DType act, out;
    bool bias;
  };
  std::vector<Case> cases;
  for (int64_t t : {1, 2, 7, 8, 9, 16, 17, 32, 33, 64, 100, 300})
    for (auto [n, k] : {std::pair<int64_t, int64_t>{5120, 2880}, {2880, 4096}, {2880, 2048}, {2200, 992}, {32, 2880}})
      cases.push_back({t, n, k, DType::kBF16, t % 2 ? DType::kBF16 : DType::kF32, t != 7});
  for (int64_t t : {1, 5, 30, 70}) {
    cases.push_back({t, 37, 96, DType::kF16, DType::kF16, true});
    cases.push_back({t, 1001, 2880, DType::kBF16, DType::kBF16, true});
    cases.push_back({t, 130, 40, DType::kBF16, DType::kF32, true});
    cases.push_back({t, 128, 2880, DType::kF16, DType::kF32, true});
    cases.push_back({t, 50, 33, DType::kF32, DType::kF32, true});
  }
  cases.push_back({3, 201088, 2880, DType::kBF16, DType::kF32, false});
  cases.push_back({1, 201088, 2880, DType::kBF16, DType::kF32, false});
  for (const Case& c : cases) {
    Pool pool(seeds);
    LinearArgs a;
    a.x = pool.normal(c.act, {c.t, c.k}, 1.0f);
    a.w = pool.plain(c.act, c.n, c.k, 0.05f);
    if (c.bias) a.bias = pool.normal(c.act, {c.n}, 1.0f);
    a.out = pool.poisoned(c.out, {c.t, c.n});
    Tensor ref = pool.raw(DType::kF64, {c.t, c.n});
    ref_linear<<<cuda::ceil_div(c.t * c.n, 128), 128>>>(any(a.x), any(a.w.values), any(a.bias), ref.as<double>(), c.t, c.n, c.k);
    check(cudaDeviceSynchronize(), "reference");
    std::vector<double> want = download(ref);
    each_row(kernels.linear, a, a.out, [&](const char* row) {
      report.line(row, fmt::format("[{}, {}] x [{}, {}] {} -> {}", c.t, c.k, c.n, c.k, name(c.act), name(c.out)),
                  relative_error(download(a.out), want), bound_of(c.out == DType::kF32 ? DType::kF32 : c.act));
    });
  }
}

// FP8 rows: the quantisation against E4M3's own spacing, then each row against F64 on the weights as quantised.
void check_fp8(const Kernels& kernels, Seeds& seeds, Report& report) {
  struct Case {
    int64_t t, n, k;
    DType out;
  };
  std::vector<Case> cases;
  for (int64_t t : {1, 2, 8, 9, 16, 17, 33, 64, 100, 300})
    for (auto [n, k] : {std::pair<int64_t, int64_t>{5120, 2880}, {2880, 4096}, {37, 64}, {1001, 192}})
      cases.push_back({t, n, k, t % 2 ? DType::kBF16 : DType::kF32});
  cases.push_back({1, 201088, 2880, DType::kF32});
  cases.push_back({40, 30000, 2880, DType::kF32});
  for (const Case& c : cases) {
    Pool pool(seeds);
    LinearArgs a;
    a.x = pool.normal(DType::kBF16, {c.t, c.k}, 1.0f);
    Tensor plain = pool.normal(DType::kBF16, {c.n, c.k}, 0.05f);
    a.w = fp8_of(pool, plain);
    if (c.t != 2) a.bias = pool.normal(DType::kBF16, {c.n}, 1.0f);
    a.out = pool.poisoned(c.out, {c.t, c.n});
    Tensor widened = pool.raw(DType::kF32, {c.n, c.k}), ref = pool.raw(DType::kF64, {c.t, c.n});
    widen_fp8<<<cuda::ceil_div(c.n * c.k, 256), 256>>>(a.w.values.as<uint8_t>(), a.w.scales.f32(), widened.f32(), c.n * c.k, c.k);
    ref_linear<<<cuda::ceil_div(c.t * c.n, 128), 128>>>(any(a.x), any(widened), any(a.bias), ref.as<double>(), c.t, c.n, c.k);
    check(cudaDeviceSynchronize(), "reference");
    if (c.n < 10000 && c.t == 1) {
      std::vector<double> want = download(plain), got = download(widened), scales = download(a.w.scales);
      double worst = 0;  // of half the distance between neighbours
      for (size_t i = 0; i < want.size(); ++i) {
        double scale = scales[i / static_cast<size_t>(c.k)];
        double spacing = std::max(std::exp2(std::floor(std::log2(std::max(std::abs(want[i]) / scale, 1e-30))) - 3), std::exp2(-9.0));
        worst = std::max(worst, std::abs(got[i] - want[i]) / scale / spacing);
      }
      report.line("quantize_fp8_rows", fmt::format("[{}, {}] error in spacings", c.n, c.k), worst, 0.5001);
    }
    std::vector<double> want = download(ref);
    each_row(kernels.linear, a, a.out, [&](const char* row) {
      report.line(row, fmt::format("[{}, {}] x [{}, {}] fp8 -> {}", c.t, c.k, c.n, c.k, name(c.out)),
                  relative_error(download(a.out), want), bound_of(c.out));
    });
  }
}

// A rank that holds the middle half of the experts: what the others hold must add nothing.
void check_experts_elsewhere(const Kernels& kernels, Seeds& seeds, Report& report) {
  for (int64_t t : {1, 3, 16, 300}) {
    constexpr int64_t kHeld = 16, kActive = 4;
    Pool pool(seeds);
    MoeCase m = moe_case(pool, t, kHeld, kActive, 2880, 1472, DType::kBF16, false);
    std::vector<int32_t> routes = random_routes(pool.seeds(), t, kActive, 2 * kHeld);
    if (std::none_of(routes.begin(), routes.begin() + kActive, [](int32_t e) { return e >= kHeld / 2 && e < kHeld * 3 / 2; }))
      routes[0] = kHeld;  // one of them is here
    std::vector<int32_t> here = routes;
    std::vector<float> weights(routes.size());
    check(cudaMemcpy(weights.data(), m.args.weights.data, m.args.weights.bytes(), cudaMemcpyDeviceToHost), "download");
    for (size_t i = 0; i < routes.size(); ++i) {
      here[i] = routes[i] - kHeld / 2;
      if (here[i] < 0 || here[i] >= kHeld) here[i] = 0, weights[i] = 0.0f;
    }
    MoeArgs reference = m.args;
    reference.indices = pool.ints(here, {t, kActive});
    reference.weights = pool.raw(DType::kF32, {t, kActive});
    check(cudaMemcpy(reference.weights.data, weights.data(), reference.weights.bytes(), cudaMemcpyHostToDevice), "upload");
    const std::vector<double> want = moe_reference(pool, reference);
    MoeArgs args = m.args;
    args.indices = pool.ints(routes, {t, kActive});
    args.first_expert = kHeld / 2;
    args.all_experts = 2 * kHeld;
    auto judge = [&](const char* row) {
      report.line(row, fmt::format("T={} experts 8 to 23 of 32", t), relative_error(download(args.out), want), 5e-3);
    };
    if (t <= 3) each_row(kernels.moe, args, args.out, judge);
    if (!m.gate_up_atoms.defined()) continue;  // acting as a card that has no rows for atoms
    args.gate_up = m.gate_up_atoms;
    args.down = m.down_atoms;
    each_row(kernels.moe, args, args.out, judge);
  }
}

void check_moe(const Kernels& kernels, Seeds& seeds, Report& report) {
  struct Case {
    int64_t t, e, a, h, i;
    DType act;
    bool crowded;
  };
  std::vector<Case> cases;
  for (int64_t t : {1, 2, 3, 8, 9, 16, 17, 40}) cases.push_back({t, 32, 4, 2880, 2880, DType::kBF16, t == 9});
  cases.push_back({4, 128, 4, 2880, 2880, DType::kBF16, false});
  cases.push_back({300, 16, 4, 2880, 2880, DType::kBF16, false});
  // 32 tokens an expert: tiles of 64, of which one half or both are filled; then with atoms that stages do not divide.
  for (bool crowded : {false, true}) cases.push_back({128, 16, 4, 2880, 2880, DType::kBF16, crowded});
  for (int64_t i : {1408, 1472}) cases.push_back({130, 16, 4, 2880, i, DType::kBF16, false});
  for (int64_t t : {1, 4, 300}) cases.push_back({t, 16, 4, 2880, t == 4 ? 1408 : 1472, DType::kBF16, false});  // two ranks
  cases.push_back({1000, 8, 4, 192, 384, DType::kBF16, false});
  cases.push_back({700, 8, 2, 320, 192, DType::kBF16, true});
  cases.push_back({256, 8, 2, 192, 128, DType::kBF16, false});
  cases.push_back({33, 16, 8, 128, 320, DType::kBF16, true});
  cases.push_back({1, 16, 8, 128, 320, DType::kBF16, false});
  cases.push_back({1, 5, 3, 64, 64, DType::kBF16, false});
  cases.push_back({5, 5, 3, 96, 96, DType::kF16, false});
  cases.push_back({5, 4, 1, 96, 96, DType::kF32, false});
  for (const Case& c : cases) {
    Pool pool(seeds);
    MoeCase m = moe_case(pool, c.t, c.e, c.a, c.h, c.i, c.act, c.crowded);
    std::vector<double> want = moe_reference(pool, m.args);
    auto judge = [&](const char* row) {
      report.line(row, fmt::format("T={} E={} A={} H={} I={} {}{}", c.t, c.e, c.a, c.h, c.i, name(c.act), c.crowded ? " crowded" : ""),
                  relative_error(download(m.args.out), want), c.act == DType::kF32 ? 2e-5 : c.act == DType::kF16 ? 6e-4 : 5e-3);
    };
    if (c.t <= 4 || c.h < 1000) each_row(kernels.moe, m.args, m.args.out, judge);
    if (!m.gate_up_atoms.defined()) continue;
    MoeArgs atoms = m.args;
    atoms.gate_up = m.gate_up_atoms;
    atoms.down = m.down_atoms;
    each_row(kernels.moe, atoms, atoms.out, judge);
    // The same rows adding to a residual: exactly what they computed.
    Tensor start = pool.normal(DType::kBF16, {c.t, c.h}, 2.0f);
    for (size_t i = 0; i < kernels.moe_add.rows.size(); ++i) {
      const KernelRow<MoeAddArgs>& row = kernels.moe_add.rows[i];
      MoeAddArgs added{atoms, pool.raw(DType::kBF16, {c.t, c.h})};
      if (!kernels.moe_add.judge(row, added)) continue;
      auto reset = [&] { check(cudaMemcpy(added.residual.data, start.data, start.bytes(), cudaMemcpyDeviceToDevice), "copy"); };
      Buffer workspace(row.workspace(added));
      Stream stream;
      stream.workspace = workspace.data();
      kernels.moe.rows[i].launch(atoms, stream);
      reset();
      AddArgs add{added.residual, atoms.out};
      kernels.add.rows[0].launch(add, stream);
      std::vector<double> expected = download(added.residual);
      reset();
      row.launch(added, stream);
      report.line(row.name, fmt::format("T={} E={} A={} H={} I={} residual", c.t, c.e, c.a, c.h, c.i),
                  relative_error(download(added.residual), expected), 0);
    }
    // The arrangement is exact: back on the host it gives the checkpoint's bytes.
    if (c.h <= 320) {
      const Weight& w = m.args.gate_up;
      std::vector<uint8_t> packed(static_cast<size_t>(m.gate_up_atoms.values.bytes())), values(static_cast<size_t>(w.values.bytes())),
          scales(static_cast<size_t>(w.scales.bytes())), back_values(values.size()), back_scales(scales.size()), host(packed.size());
      check(cudaMemcpy(packed.data(), m.gate_up_atoms.values.data, packed.size(), cudaMemcpyDeviceToHost), "download");
      check(cudaMemcpy(values.data(), w.values.data, values.size(), cudaMemcpyDeviceToHost), "download");
      check(cudaMemcpy(scales.data(), w.scales.data, scales.size(), cudaMemcpyDeviceToHost), "download");
      int64_t v1 = w.n * w.k / 2, s1 = w.n * w.k / 32, p1 = cuda::atoms_bytes(1, w.n, w.k);
      for (int64_t e = 0; e < w.experts; ++e) {
        cuda::from_atoms(packed.data() + e * p1, w.n, w.k, back_values.data() + e * v1, back_scales.data() + e * s1);
        cuda::to_atoms(values.data() + e * v1, scales.data() + e * s1, w.n, w.k, host.data() + e * p1);
      }
      bool same = values == back_values && scales == back_scales && host == packed;
      report.line("mxfp4_atoms", fmt::format("E={} [{}, {}] device = host, inverse exact", w.experts, w.n, w.k), same ? 0 : 1, 0);
    }
  }
}

// The fused op against the two it fuses, on the same cache: the same attention, the same keys and values stored.
void check_rope_attention(const Kernels& kernels, Pool& pool, const AttentionArgs& a, const std::vector<int32_t>& context,
                          const std::string& shape, Report& report) {
  const int64_t batch = a.q.dim(0), q_heads = a.q.dim(1), kv_heads = a.cache.k.dim(1), d = a.q.dim(2), page = a.cache.page_size();
  const DType act = a.q.dtype;
  std::vector<double> table = download(a.page_table);
  std::vector<int32_t> slots;
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t key = context[static_cast<size_t>(b)] - 1;
    slots.push_back(static_cast<int32_t>(static_cast<int64_t>(table[static_cast<size_t>(b * a.page_table.dim(1) + key / page)]) * page + key % page));
  }
  RopeAttentionArgs fused;
  fused.attention = a;
  fused.rope = {pool.poisoned(act, a.q.shape), {}, {}, pool.normal(act, {batch, d / 2}, 0.7f), pool.normal(act, {batch, d / 2}, 0.7f),
                pool.ints(slots, {batch}), a.cache, pool.normal(act, {batch, q_heads + 2 * kv_heads, d}, 1.0f)};
  fused.attention.q = fused.rope.q;
  for (const KernelRow<RopeAttentionArgs>& row : kernels.rope_attention.rows) {
    if (!kernels.rope_attention.judge(row, fused)) continue;
    Buffer workspace(row.workspace(fused));
    Stream stream;
    stream.workspace = workspace.data();
    check(cudaMemset(a.out.data, 0xff, static_cast<size_t>(a.out.bytes())), "poison");
    row.launch(fused, stream);
    check(cudaDeviceSynchronize(), row.name);
    auto bits = [](const Tensor& t) {
      std::vector<uint16_t> v(static_cast<size_t>(t.numel()));
      check(cudaMemcpy(v.data(), t.data, v.size() * 2, cudaMemcpyDeviceToHost), "download");
      return v;
    };
    std::vector<double> out = download(a.out);
    std::vector<uint16_t> k = bits(a.cache.k), v = bits(a.cache.v);
    kernels.rope_kv.rows[0].launch(fused.rope, stream);
    kernels.attention.rows[0].launch(fused.attention, stream);
    check(cudaDeviceSynchronize(), "attention");
    const bool stored = k == bits(a.cache.k) && v == bits(a.cache.v);
    report.line(row.name, shape, stored ? relative_error(out, download(a.out)) : 1.0, 0);
  }
}

void check_attention(const Kernels& kernels, Seeds& seeds, Report& report) {
  struct Case {
    std::vector<int32_t> queries, context;
    int64_t q_heads, kv_heads, d, page, window;
    bool sinks;
    DType act;
    bool fp8 = false;
  };
  std::vector<Case> cases;
  for (int64_t window : {0, 128})
    for (int64_t d : {64, 128}) {
      for (DType act : {DType::kBF16, DType::kF16}) {
        cases.push_back({{1, 1, 1}, {129, 5000, 33}, 64, 8, d, 24, window, true, act, true});
        cases.push_back({{1, 77, 5, 128}, {500, 77, 1305, 640}, 64, 8, d, 32, window, true, act, true});
      }
      cases.push_back({{1}, {4096}, 64, 8, d, 16, window, true, DType::kBF16});
      cases.push_back({{1}, {1}, 64, 8, d, 64, window, true, DType::kBF16});
      cases.push_back({{1, 1, 1}, {129, 5000, 33}, 64, 8, d, 24, window, true, DType::kBF16});
      cases.push_back({{1, 1, 1, 1, 1}, {7, 100, 128, 1000, 257}, 8, 8, d, 16, window, false, DType::kF16});
      cases.push_back({{300}, {300}, 64, 8, d, 16, window, true, DType::kBF16});
      cases.push_back({{1, 77, 5, 128}, {500, 77, 1305, 640}, 64, 8, d, 32, window, true, DType::kBF16});
      cases.push_back({{50, 3}, {50, 200}, 12, 4, d, 16, window, false, DType::kF16});
    }
  cases.push_back({{1, 1}, {300, 20}, 20, 4, 64, 16, 100, true, DType::kBF16});
  cases.push_back({{4, 1}, {30, 20}, 4, 2, 80, 8, 10, true, DType::kF32});
  cases.push_back({{4, 1}, {30, 20}, 4, 2, 80, 8, 10, true, DType::kF32, true});
  for (const Case& c : cases) {
    Pool pool(seeds);
    AttentionCase a = attention_case(pool, c.queries, c.context, c.q_heads, c.kv_heads, c.d, c.page, c.window, c.sinks, c.act,
                                     kernels.kv_write.rows[0], true, c.fp8);
    const int64_t most = *std::max_element(c.context.begin(), c.context.end());
    const std::string shape = fmt::format("B={} T={} ctx<={} Q={} K={} D={} P={} W={}{} {}", c.context.size(), a.args.q.dim(0), most,
                                          c.q_heads, c.kv_heads, c.d, c.page, c.window, c.sinks ? " sinks" : "",
                                          name(c.act) + (c.fp8 ? ", fp8 cache" : ""));
    each_row(kernels.attention, a.args, a.args.out, [&](const char* row) {
      report.line(row, shape, relative_error(download(a.args.out), a.reference),
                  c.act == DType::kBF16 ? 5e-3 : c.act == DType::kF16 ? 7e-4 : 2e-5);
    });
    if (a.args.max_queries == 1) check_rope_attention(kernels, pool, a.args, c.context, shape, report);
  }
}

void check_norm_and_elementwise(const Kernels& kernels, Seeds& seeds, Report& report) {
  auto rounded = [](double v, DType t) -> double {
    float f = static_cast<float>(v);
    return t == DType::kBF16 ? bf16_to_float(float_to_bf16(f)) : t == DType::kF16 ? f16_to_float(float_to_f16(f)) : f;
  };
  for (DType act : {DType::kBF16, DType::kF16, DType::kF32})
    for (auto [t, n] : {std::pair<int64_t, int64_t>{1, 2880}, {33, 2880}, {5, 64}, {3, 67}, {2, 8192}, {300, 4096}})
      for (bool delta : {true, false}) {
        Pool pool(seeds);
        RmsNormArgs a;
        a.residual = pool.normal(act, {t, n}, 2.0f);
        if (delta) a.delta = pool.normal(act, {t, n}, 1.0f);
        a.weight = pool.normal(delta ? DType::kBF16 : DType::kF32, {n}, 1.0f);
        a.round_before_weight = t == 33;
        a.out = pool.poisoned(act, {t, n});
        std::vector<double> x = download(a.residual), w = download(a.weight), want(x.size());
        if (delta) {
          std::vector<double> d = download(a.delta);
          for (size_t i = 0; i < x.size(); ++i) x[i] = rounded(x[i] + d[i], act);
        }
        for (int64_t r = 0; r < t; ++r) {
          double sum = 0;
          for (int64_t i = 0; i < n; ++i) sum += x[r * n + i] * x[r * n + i];
          double inverse = 1 / std::sqrt(sum / n + a.eps);
          for (int64_t i = 0; i < n; ++i)
            want[r * n + i] = (a.round_before_weight ? rounded(x[r * n + i] * inverse, act) : x[r * n + i] * inverse) * w[i];
        }
        each_row(kernels.rms_norm, a, a.out, [&](const char* row) {
          double error = relative_error(download(a.out), want);
          if (delta) error = std::max(error, relative_error(download(a.residual), x) == 0 ? 0.0 : 1.0);
          report.line(row, fmt::format("[{}, {}] {}{}", t, n, name(act), delta ? " + delta" : ""), error, bound_of(act));
        });
        if (n == 67 || n == 2880) {
          AddArgs add{pool.normal(act, {t, n}, 1.0f), pool.normal(act, {t, n}, 1.0f)};
          std::vector<double> p = download(add.x), q = download(add.delta);
          for (size_t i = 0; i < p.size(); ++i) want[i] = rounded(p[i] + q[i], act);
          Stream stream;
          kernels.add.rows[0].launch(add, stream);
          report.line(kernels.add.rows[0].name, fmt::format("[{}, {}] {}", t, n, name(act)), relative_error(download(add.x), want), 0);
          SiluMulArgs silu{pool.normal(act, {t, n}, 2.0f), pool.normal(act, {t, n}, 1.0f), pool.poisoned(act, {t, n})};
          p = download(silu.gate), q = download(silu.up);
          for (size_t i = 0; i < p.size(); ++i) want[i] = p[i] / (1 + std::exp(-p[i])) * q[i];
          each_row(kernels.silu_mul, silu, silu.out, [&](const char* row) {
            report.line(row, fmt::format("[{}, {}] {}", t, n, name(act)), relative_error(download(silu.out), want), bound_of(act));
          });
          std::vector<int32_t> ids;
          for (int64_t i = 0; i < t; ++i) ids.push_back(static_cast<int32_t>(seeds.below(100)));
          for (DType table_type : {act, DType::kBF16}) {
            EmbedArgs embed{pool.ints(ids, {t}), pool.normal(table_type, {100, n}, 1.0f), pool.poisoned(act, {t, n})};
            std::vector<double> table = download(embed.table);
            for (int64_t r = 0; r < t; ++r)
              for (int64_t i = 0; i < n; ++i) want[r * n + i] = rounded(table[ids[r] * n + i], act);
            each_row(kernels.embed, embed, embed.out, [&](const char* row) {
              report.line(row, fmt::format("[{}, {}] {} from {}", t, n, name(act), name(table_type)),
                          relative_error(download(embed.out), want), 0);
            });
          }
        }
      }
}

void check_rope(const Kernels& kernels, Seeds& seeds, Report& report) {
  for (DType act : {DType::kBF16, DType::kF32})
    for (auto [t, heads, d] : {std::tuple<int64_t, int64_t, int64_t>{1, 64, 64}, {19, 8, 128}, {3, 1, 6}}) {
      Pool pool(seeds);
      int64_t half = d / 2;
      std::vector<int32_t> positions;
      for (int64_t i = 0; i < t; ++i) positions.push_back(static_cast<int32_t>(seeds.below(131072)));
      RopeTableArgs table;
      table.positions = pool.ints(positions, {t});
      const std::vector<double> freq = download(pool.normal(DType::kF32, {half}, 0.1f));
      std::vector<float> host_freq(freq.begin(), freq.end());
      table.inv_freq = {host_freq.data(), {half}, DType::kF32, Device{}};
      table.factor = 1.3466f;
      table.cos = pool.poisoned(act, {t, half});
      table.sin = pool.poisoned(act, {t, half});
      Stream stream;
      kernels.rope_table.rows[0].launch(table, stream);
      std::vector<double> cos = download(table.cos), sin = download(table.sin), want_cos, want_sin;
      for (int64_t i = 0; i < t * half; ++i) {
        float angle = static_cast<float>(positions[i / half]) * static_cast<float>(freq[i % half]);  // the product is F32
        want_cos.push_back(std::cos(static_cast<double>(angle)) * table.factor);
        want_sin.push_back(std::sin(static_cast<double>(angle)) * table.factor);
      }
      report.line(kernels.rope_table.rows[0].name, fmt::format("T={} D={} {}", t, d, name(act)),
                  std::max(relative_error(cos, want_cos), relative_error(sin, want_sin)), bound_of(act));
      RopeArgs rope{pool.normal(act, {t, heads, d}, 1.0f), table.cos, table.sin};
      std::vector<double> x = download(rope.x), want(x.size());
      for (int64_t r = 0; r < t * heads; ++r)
        for (int64_t i = 0; i < half; ++i) {
          double c = cos[r / heads * half + i], s = sin[r / heads * half + i], p = x[r * d + i], q = x[r * d + half + i];
          want[r * d + i] = p * c - q * s;
          want[r * d + half + i] = q * c + p * s;
        }
      kernels.rope.rows[0].launch(rope, stream);
      report.line(kernels.rope.rows[0].name, fmt::format("[{}, {}, {}] {}", t, heads, d, name(act)),
                  relative_error(download(rope.x), want), bound_of(act));
    }
}

void check_router(const Kernels& kernels, Seeds& seeds, Report& report) {
  for (RouterMode mode : {RouterMode::kSoftmaxOfTopK, RouterMode::kTopKOfSoftmax, RouterMode::kTopKOfSoftmaxNormalised})
    for (auto [t, e, k] : {std::tuple<int64_t, int64_t, int64_t>{1, 32, 4}, {37, 128, 4}, {9, 5, 3}, {64, 256, 8}}) {
      Pool pool(seeds);
      RouterArgs a;
      a.logits = pool.normal(DType::kBF16, {t, e}, 1.0f);
      a.mode = mode;
      a.indices = pool.poisoned(DType::kI32, {t, k});
      a.weights = pool.poisoned(DType::kF32, {t, k});
      Stream stream;
      kernels.router.rows[0].launch(a, stream);
      std::vector<double> x = download(a.logits), got_index = download(a.indices), got = download(a.weights), want;
      int wrong = 0;
      for (int64_t r = 0; r < t; ++r) {
        std::vector<int64_t> order(static_cast<size_t>(e));
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](int64_t p, int64_t q) { return x[r * e + p] > x[r * e + q]; });
        double all = 0, top = 0;
        for (int64_t i = 0; i < e; ++i) all += std::exp(x[r * e + order[i]]);
        for (int64_t i = 0; i < k; ++i) top += std::exp(x[r * e + order[i]]);
        for (int64_t i = 0; i < k; ++i) {
          wrong += got_index[r * k + i] != static_cast<double>(order[i]);
          want.push_back(std::exp(x[r * e + order[i]]) / (mode == RouterMode::kTopKOfSoftmax ? all : top));
        }
      }
      report.line(kernels.router.rows[0].name, fmt::format("T={} E={} A={} mode {}", t, e, k, static_cast<int>(mode)),
                  wrong ? 1.0 : relative_error(got, want), bound_of(DType::kBF16));
    }
}

// kv_write into E4M3 against the host's rounding, values beyond its range included.
void check_kv_write(const Kernels& kernels, Seeds& seeds, Report& report) {
  for (float std : {0.002f, 1.0f, 300.0f}) {
    Pool pool(seeds);
    const int64_t t = 40, heads = 3, d = 64, page = 16;
    Tensor k = pool.normal(DType::kBF16, {t, heads, d}, std), v = pool.normal(DType::kBF16, {t, heads, d}, std);
    std::vector<int32_t> slots(static_cast<size_t>(t));
    std::iota(slots.begin(), slots.end(), 0);
    Shape shape{3, heads, page, d};
    KvWriteArgs a{k, v, pool.ints(slots, {t}), {pool.poisoned(DType::kF8E4M3, shape), pool.poisoned(DType::kF8E4M3, shape)}};
    Stream stream;
    kernels.kv_write.rows[0].launch(a, stream);
    check(cudaDeviceSynchronize(), "kv_write");
    int wrong = 0;
    for (auto [from, to] : {std::pair{k, a.cache.k}, {v, a.cache.v}}) {
      const std::vector<double> in = download(from), out = download(to);
      for (int64_t i = 0; i < t * heads * d; ++i) {
        const int64_t token = i / (heads * d), head = i / d % heads;
        const int64_t at = ((token / page * heads + head) * page + token % page) * d + i % d;
        wrong += out[at] != e4m3_to_float(float_to_e4m3(static_cast<float>(in[i])));
      }
    }
    report.line(kernels.kv_write.rows[0].name, fmt::format("T={} K={} D={} into E4M3, spread {}: wrong values", t, heads, d, std), wrong, 0);
  }
}

template <class Args>
void run_first(const OpTable<Args>& table, const Args& args) {
  const KernelRow<Args>* row = table.choose(args);
  TS_CHECK(row != nullptr);
  Buffer workspace(row->workspace ? row->workspace(args) : 0);
  Stream stream;
  stream.workspace = workspace.data();
  row->launch(args, stream);
  check(cudaDeviceSynchronize(), row->name);
}

// Fused rows against the ops one by one, whose own rows other groups judge.
void check_rope_kv(const Kernels& kernels, Seeds& seeds, Report& report) {
  struct RopeCase {
    int64_t t, q_heads, kv_heads, d, page;
    DType act;
    bool fp8;
  };
  for (auto [t, q_heads, kv_heads, d, page, act, fp8] : std::vector<RopeCase>{{1, 64, 8, 64, 16, DType::kBF16, false},
                                                                              {33, 64, 8, 64, 64, DType::kBF16, false},
                                                                              {33, 64, 8, 64, 64, DType::kBF16, true},
                                                                              {700, 32, 8, 128, 24, DType::kBF16, false},
                                                                              {5, 3, 1, 16, 4, DType::kF16, false},
                                                                              {9, 3, 1, 16, 4, DType::kF16, true}}) {
    Pool pool(seeds);
    Tensor start = pool.normal(act, {t, q_heads, d}, 1.0f), k = pool.normal(act, {t, kv_heads, d}, 1.0f);
    RopeKvArgs a{pool.raw(act, {t, q_heads, d}), pool.raw(act, {t, kv_heads, d}), pool.normal(act, {t, kv_heads, d}, 1.0f),
                 pool.normal(act, {t, d / 2}, 0.7f), pool.normal(act, {t, d / 2}, 0.7f)};
    std::vector<int32_t> slots;
    for (int64_t i = 0; i < t; ++i) slots.push_back(i == 3 ? -1 : static_cast<int32_t>(t - 1 - i));
    a.slots = pool.ints(slots, {t});
    auto cache = [&, t = t, kv_heads = kv_heads, d = d, page = page, act = act, fp8 = fp8] {
      Shape shape{t / page + 1, kv_heads, page, d};
      DType type = fp8 ? DType::kF8E4M3 : act;
      return KvPages{pool.poisoned(type, shape), pool.poisoned(type, shape)};
    };
    auto reset = [&] {
      check(cudaMemcpy(a.q.data, start.data, start.bytes(), cudaMemcpyDeviceToDevice), "copy");
      check(cudaMemcpy(a.k.data, k.data, k.bytes(), cudaMemcpyDeviceToDevice), "copy");
      a.cache = cache();
    };
    auto values = [](const Tensor& tensor) {
      std::vector<double> out = download(tensor);
      for (double& value : out)
        if (std::isnan(value)) value = 777;
      return out;
    };
    reset();
    run_first(kernels.rope, RopeArgs{a.q, a.cos, a.sin});
    run_first(kernels.rope, RopeArgs{a.k, a.cos, a.sin});
    run_first(kernels.kv_write, KvWriteArgs{a.k, a.v, a.slots, a.cache});
    std::vector<double> q_want = values(a.q), k_want = values(a.cache.k), v_want = values(a.cache.v);
    for (const KernelRow<RopeKvArgs>& row : kernels.rope_kv.rows) {
      reset();
      TS_CHECK(row.supports(a));
      Stream stream;
      row.launch(a, stream);
      check(cudaDeviceSynchronize(), row.name);
      report.line(row.name, fmt::format("T={} Q={} K={} D={} {}{}", t, q_heads, kv_heads, d, name(act), fp8 ? ", fp8 cache" : ""),
                  std::max({relative_error(values(a.q), q_want), relative_error(values(a.cache.k), k_want),
                            relative_error(values(a.cache.v), v_want)}),
                  fp8 ? 3e-2 : bound_of(act));
      RopeKvArgs packed = a;
      packed.packed = pool.raw(act, {t, q_heads + 2 * kv_heads, d});
      const size_t width = static_cast<size_t>((q_heads + 2 * kv_heads) * d * 2);
      auto place = [&](const Tensor& from, int64_t first) {
        const size_t bytes = static_cast<size_t>(from.dim(1) * d * 2);
        check(cudaMemcpy2D(packed.packed.as<char>() + first * d * 2, width, from.data, bytes, bytes, static_cast<size_t>(t),
                           cudaMemcpyDeviceToDevice),
              "copy");
      };
      place(start, 0);
      place(k, q_heads);
      place(a.v, q_heads + kv_heads);
      packed.k = packed.v = {};
      packed.cache = cache();
      check(cudaMemset(packed.q.data, 0xff, static_cast<size_t>(packed.q.bytes())), "poison");
      TS_CHECK(row.supports(packed));
      row.launch(packed, stream);
      check(cudaDeviceSynchronize(), row.name);
      report.line(row.name, fmt::format("T={} Q={} K={} D={} {} packed{}", t, q_heads, kv_heads, d, name(act), fp8 ? ", fp8 cache" : ""),
                  std::max({relative_error(values(packed.q), q_want), relative_error(values(packed.cache.k), k_want),
                            relative_error(values(packed.cache.v), v_want)}),
                  fp8 ? 3e-2 : bound_of(act));
    }
  }
}

// Cases of up to `most` tokens.
void check_norm_router(const Kernels& kernels, Seeds& seeds, Report& report, int64_t most) {
  struct RouterCase {
    int64_t t, h, e, a;
    DType act;
    bool delta;
    RouterMode mode;
  };
  for (const RouterCase& c : std::vector<RouterCase>{{1, 2880, 32, 4, DType::kBF16, true, RouterMode::kSoftmaxOfTopK},
                                                     {1, 2880, 128, 4, DType::kBF16, true, RouterMode::kSoftmaxOfTopK},
                                                     {3, 2880, 100, 4, DType::kBF16, true, RouterMode::kSoftmaxOfTopK},
                                                     {7, 2048, 250, 8, DType::kF16, true, RouterMode::kTopKOfSoftmaxNormalised},
                                                     {8, 2880, 32, 4, DType::kBF16, false, RouterMode::kSoftmaxOfTopK},
                                                     {23, 64, 5, 3, DType::kF16, true, RouterMode::kTopKOfSoftmax},
                                                     {24, 2880, 32, 4, DType::kBF16, true, RouterMode::kSoftmaxOfTopK},
                                                     {25, 2880, 128, 4, DType::kBF16, true, RouterMode::kSoftmaxOfTopK},
                                                     {40, 2880, 32, 4, DType::kBF16, true, RouterMode::kSoftmaxOfTopK},
                                                     {64, 2880, 128, 4, DType::kBF16, false, RouterMode::kSoftmaxOfTopK},
                                                     {31, 4096, 128, 8, DType::kF16, true, RouterMode::kTopKOfSoftmaxNormalised},
                                                     {200, 2880, 32, 4, DType::kBF16, true, RouterMode::kSoftmaxOfTopK},
                                                     {33, 5120, 16, 2, DType::kBF16, true, RouterMode::kTopKOfSoftmaxNormalised},
                                                     {27, 512, 5, 3, DType::kF16, true, RouterMode::kTopKOfSoftmax}}) {
    if (c.t > most) continue;
    Pool pool(seeds);
    NormRouterArgs a;
    Tensor start = pool.normal(c.act, {c.t, c.h}, 2.0f), residual = pool.raw(c.act, {c.t, c.h});
    a.residual = pool.raw(c.act, {c.t, c.h});
    auto restore = [&](const Tensor& t) { check(cudaMemcpy(t.data, start.data, start.bytes(), cudaMemcpyDeviceToDevice), "copy"); };
    restore(residual);
    if (c.delta) a.delta = pool.normal(c.act, {c.t, c.h}, 1.0f);
    a.norm_weight = pool.normal(c.act, {c.h}, 1.0f);
    a.round_before_weight = c.a == 8;
    a.router = pool.plain(c.act, c.e, c.h, 0.05f);
    a.router_bias = pool.normal(c.act, {c.e}, 1.0f);
    a.mode = c.mode;
    Tensor normed = pool.poisoned(c.act, {c.t, c.h}), logits = pool.poisoned(c.act, {c.t, c.e}),
           indices = pool.poisoned(DType::kI32, {c.t, c.a}), weights = pool.poisoned(DType::kF32, {c.t, c.a});
    a.normed = pool.poisoned(c.act, {c.t, c.h});
    a.logits = pool.poisoned(c.act, {c.t, c.e});
    a.indices = pool.poisoned(DType::kI32, {c.t, c.a});
    a.weights = pool.poisoned(DType::kF32, {c.t, c.a});
    run_first(kernels.rms_norm, RmsNormArgs{residual, a.delta, a.norm_weight, a.eps, a.round_before_weight, normed});
    run_first(kernels.linear, LinearArgs{normed, a.router, a.router_bias, logits});
    for (const KernelRow<NormRouterArgs>& row : kernels.norm_router.rows) {
      if (!kernels.norm_router.judge(row, a)) continue;
      restore(a.residual);
      Stream stream;
      row.launch(a, stream);
      check(cudaDeviceSynchronize(), row.name);
      // The choice is judged on the row's own logits: a rounding may order two of them otherwise.
      run_first(kernels.router, RouterArgs{a.logits, a.mode, indices, weights});
      double error = std::max(relative_error(download(a.normed), download(normed)), relative_error(download(a.logits), download(logits)));
      bool exact = download(a.residual) == download(residual) && download(a.indices) == download(indices) &&
                   download(a.weights) == download(weights);
      report.line(row.name, fmt::format("T={} H={} E={} A={} {}{}", c.t, c.h, c.e, c.a, name(c.act), c.delta ? " + delta" : ""),
                  exact ? error : 1.0, bound_of(c.act));
    }
  }
}

struct SampleCase {
  int64_t rows, vocab;
  float spread;  // of the logits
  bool masks, edits;
};

Tensor upload(Pool& pool, const void* data, size_t bytes) {
  Tensor t = pool.raw(DType::kU8, {std::max<int64_t>(static_cast<int64_t>(bytes), 1)});
  if (bytes > 0) check(cudaMemcpy(t.data, data, bytes, cudaMemcpyHostToDevice), "upload");
  return t;
}

// Rows with every mixture of settings, against the reference row on the host: the same ids, the same log-probabilities.
void check_sample_case(const Kernels& kernels, const SampleCase& c, Seeds& seeds, Report& report) {
  Pool pool(seeds);
  auto pick = [&](std::initializer_list<double> values) { return *(values.begin() + seeds.below(static_cast<int64_t>(values.size()))); };
  SampleArgs a;
  a.logits = pool.normal(DType::kF32, {c.rows, c.vocab}, c.spread);
  std::vector<float> logits(static_cast<size_t>(c.rows * c.vocab));
  check(cudaMemcpy(logits.data(), a.logits.data, logits.size() * 4, cudaMemcpyDeviceToHost), "download");
  for (float& l : logits) {
    if (c.rows % 2 == 0) l = std::round(l * 16) / 16;  // ties
    if (seeds.below(1000) == 0) l = -INFINITY;
    if (seeds.below(3000) == 0) l = NAN;
  }
  check(cudaMemcpy(a.logits.data, logits.data(), logits.size() * 4, cudaMemcpyHostToDevice), "upload");
  std::vector<SampleSettings> settings(static_cast<size_t>(c.rows));
  std::vector<int32_t> edit_start{0};
  std::vector<LogitEdit> edits;
  int64_t words = (c.vocab + 31) / 32;
  std::vector<uint32_t> masks(static_cast<size_t>(2 * words));
  for (uint32_t& m : masks) m = static_cast<uint32_t>(seeds.next() >> 32);
  for (int64_t i = words + 1; i < 2 * words; ++i) masks[i] = 0;  // the second mask allows few
  masks[0] |= 1, masks[words] |= 1;
  for (SampleSettings& s : settings) {
    s = {.temperature = pick({0, 0.1, 0.7, 1, 1, 2, 50}), .top_p = pick({1, 1, 0.99, 0.9, 0.3, 0.001}),
         .min_p = pick({0, 0, 0.02, 0.5}), .frequency_penalty = pick({0, 0.3}), .presence_penalty = pick({0, -0.2}),
         .uniform = static_cast<double>(seeds.below(1000000)) / 1e6, .repetition_penalty = static_cast<float>(pick({1, 1.3, 0.5})),
         .top_k = static_cast<int32_t>(pick({0, 0, 1, 50, 3000, 1e6})), .logprobs = static_cast<int32_t>(pick({-1, 0, 3, 20})),
         .mask = c.masks ? static_cast<int32_t>(seeds.below(3)) - 1 : -1};
    if (c.edits)
      for (int64_t i = seeds.below(500), id = 0; i > 0 && id < c.vocab; --i, id += 1 + seeds.below(7))
        edits.push_back({static_cast<int32_t>(id), static_cast<float>(pick({0, 0, 2, -3})), static_cast<int32_t>(seeds.below(5)) - 1});
    edit_start.push_back(static_cast<int32_t>(edits.size()));
  }
  SampleArgs host = a;
  auto host_tensor = [](void* data, DType type, Shape shape) { return Tensor{data, shape, type, Device{}}; };
  std::vector<int32_t> ids(settings.size()), top_ids(settings.size() * kMaxSampleLogprobs, -1);
  std::vector<float> logprobs(settings.size()), top_logprobs(top_ids.size());
  host.logits = host_tensor(logits.data(), DType::kF32, {c.rows, c.vocab});
  host.settings = host_tensor(settings.data(), DType::kU8, {c.rows, sizeof(SampleSettings)});
  host.ids = host_tensor(ids.data(), DType::kI32, {c.rows});
  host.logprobs = host_tensor(logprobs.data(), DType::kF32, {c.rows});
  host.top_ids = host_tensor(top_ids.data(), DType::kI32, {c.rows, kMaxSampleLogprobs});
  host.top_logprobs = host_tensor(top_logprobs.data(), DType::kF32, {c.rows, kMaxSampleLogprobs});
  a.settings = upload(pool, settings.data(), settings.size() * sizeof(SampleSettings));
  if (c.edits) {
    host.edit_start = host_tensor(edit_start.data(), DType::kI32, {c.rows + 1});
    host.edits = host_tensor(edits.data(), DType::kU8, {static_cast<int64_t>(edits.size() * sizeof(LogitEdit))});
    a.edit_start = pool.ints(edit_start, {c.rows + 1});
    a.edits = upload(pool, edits.data(), edits.size() * sizeof(LogitEdit));
  }
  if (c.masks) {
    host.masks = host_tensor(masks.data(), DType::kI32, {2, words});
    a.masks = upload(pool, masks.data(), masks.size() * 4);
    a.masks.shape = {2, words};
    a.masks.dtype = DType::kI32;
  }
  a.any_logprobs = host.any_logprobs = true;
  a.ids = pool.poisoned(DType::kI32, {c.rows});
  a.logprobs = pool.poisoned(DType::kF32, {c.rows});
  a.top_ids = pool.poisoned(DType::kI32, {c.rows, kMaxSampleLogprobs});
  a.top_logprobs = pool.poisoned(DType::kF32, {c.rows, kMaxSampleLogprobs});
  each_row(kernels.sample, a, a.ids, [&](const char* row) {
    if (row == kernels.sample.rows[0].name) {  // the host's logits are edited in place, so its turn comes once
      Stream stream;
      Kernels::reference().sample.rows[0].launch(host, stream);
    }
    std::vector<double> got = download(a.ids), got_logprob = download(a.logprobs), got_top = download(a.top_ids),
                        got_top_logprob = download(a.top_logprobs);
    int wrong = 0;
    auto close = [](double x, double y) { return x == y || std::abs(x - y) <= 2e-5 * (1 + std::abs(y)); };
    for (size_t r = 0; r < settings.size(); ++r) {
      bool good = got[r] == ids[r];
      if (settings[r].logprobs >= 0) good = good && close(got_logprob[r], logprobs[r]);
      for (int64_t i = 0; i < kMaxSampleLogprobs; ++i) {
        size_t at = r * kMaxSampleLogprobs + static_cast<size_t>(i);
        good = good && got_top[at] == top_ids[at] && (top_ids[at] < 0 || close(got_top_logprob[at], top_logprobs[at]));
      }
      if (!good && ++wrong <= 3)
        std::printf("  row %zu: id %g, expected %d; T %g k %d p %g min-p %g u %.6f\n", r, got[r], ids[r], settings[r].temperature,
                    settings[r].top_k, settings[r].top_p, settings[r].min_p, settings[r].uniform);
    }
    report.line(row, fmt::format("R={} V={} spread {}{}{}: wrong rows", c.rows, c.vocab, c.spread, c.masks ? " masks" : "",
                                 c.edits ? " edits" : ""),
                wrong, 0);
  });
}

void check_sample(const Kernels& kernels, Seeds& seeds, Report& report) {
  for (auto [rows, vocab] : {std::pair<int64_t, int64_t>{40, 5}, {20, 1}, {41, 300}, {40, 4096}, {41, 4097}, {40, 50257}, {8, 201088}})
    for (float spread : {0.01f, 1.0f, 4.0f})
      for (int kind = 0; kind < 4; ++kind) check_sample_case(kernels, {rows, vocab, spread, kind % 2 == 1, kind / 2 == 1}, seeds, report);
}

// The same call twice gives the same bits.
void check_repeats(const Kernels& kernels, Seeds& seeds, Report& report) {
  Pool pool(seeds);
  MoeCase m = moe_case(pool, 12, 32, 4, 2880, 2880, DType::kBF16, false);
  MoeArgs a = m.args;
  if (m.gate_up_atoms.defined()) {
    a.gate_up = m.gate_up_atoms;
    a.down = m.down_atoms;
  }
  std::map<std::string, std::vector<double>> first;
  int changed = 0;
  for (int i = 0; i < 20; ++i)
    each_row(kernels.moe, a, a.out, [&](const char* row) {
      std::vector<double> now = download(a.out);
      if (first[row].empty()) first[row] = now;
      changed += now != first[row];
    });
  report.line("moe", "20 runs, same bits", changed, 0);
}

int main_of(int argc, char** argv) {
  uint64_t seed = argc > 1 ? std::strtoull(argv[1], nullptr, 10)
                           : static_cast<uint64_t>(std::chrono::system_clock::now().time_since_epoch().count());
  Seeds seeds{seed};
  forced_capability();  // before the driver starts
  cudaDeviceProp device;
  check(cudaGetDeviceProperties(&device, 0), "device");
  const int capability = cuda::current_capability();
  std::printf("%s as compute capability %d, seed %llu\n%-24s %-58s rel. error\n", device.name, capability, static_cast<unsigned long long>(seed), "row", "case");
  Kernels kernels;
  add_cuda_kernels(kernels);
  kernels = kernels.for_capability(capability);
  Report report;
  std::string only = argc > 2 ? argv[2] : "";
  auto chosen = [&](const char* group) { return only.empty() || only == group; };
  if (chosen("small")) {
    check_norm_and_elementwise(kernels, seeds, report);
    check_rope(kernels, seeds, report);
    check_router(kernels, seeds, report);
    check_kv_write(kernels, seeds, report);
  }
  if (chosen("linear")) check_linear(kernels, seeds, report);
  if (chosen("fp8")) check_fp8(kernels, seeds, report);
  if (chosen("moe")) check_moe(kernels, seeds, report);
  if (chosen("moe")) check_experts_elsewhere(kernels, seeds, report);
  if (chosen("attention")) check_attention(kernels, seeds, report);
  if (chosen("fused")) check_rope_kv(kernels, seeds, report);
  if (chosen("fused")) check_norm_router(kernels, seeds, report, std::numeric_limits<int64_t>::max());
  if (only == "route") check_norm_router(kernels, seeds, report, 23);  // without cuBLASLt, which fails under racecheck
  if (chosen("sample")) check_sample(kernels, seeds, report);
  if (chosen("repeats")) check_repeats(kernels, seeds, report);
  std::printf("%d cases, %d failed\n", report.cases, report.failed);
  return report.failed == 0 ? 0 : 1;
}

}  // namespace
}  // namespace tessera::bench

int main(int argc, char** argv) {
  try {
    return tessera::bench::main_of(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "cuda_check: %s\n", e.what());
    return 1;
  }
}
