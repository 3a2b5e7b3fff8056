// The fused ops' reference rows against the ops one by one, by this machine's best rows.
#include <algorithm>
#include <cstring>
#include <thread>

#include "kernels/testing.h"
#include "parallel/thread_group.h"

namespace tessera {
namespace {

using namespace tessera::testing;

template <class Args>
void run_best(const OpTable<Args>& table, const Args& args, ThreadPool& pool) {
  launch(*table.choose(args), args, pool);
}

TEST(Fused, RopeKvIsRotationAndCacheWrite) {
  const Kernels best = Kernels::builtin(), reference = Kernels::reference();
  ThreadPool pool(2);
  for (DType act : kFloats) {
    Operands o(fresh_seed());
    const int64_t tokens = 3, heads = 4, kv_heads = 2, d = 16, all = heads + 2 * kv_heads;
    Tensor packed = o.normal(act, {tokens, all, d});
    auto heads_of = [&](int64_t first, int64_t count) {
      Tensor out = o.guarded(act, {tokens, count, d});
      const auto bytes = static_cast<size_t>(count * d * dtype_size(act));
      for (int64_t t = 0; t < tokens; ++t)
        std::memcpy(out.rows(t, 1).data, packed.as<char>() + (t * all + first) * d * dtype_size(act), bytes);
      return out;
    };
    RopeKvArgs a{.q = o.guarded(act, {tokens, heads, d}), .packed = packed};
    a.cos = o.normal(act, {tokens, d / 2}), a.sin = o.normal(act, {tokens, d / 2});
    a.slots = o.ints({tokens}, {5, -1, 0});
    a.cache = {o.guarded(act, {2, kv_heads, 4, d}), o.guarded(act, {2, kv_heads, 4, d})};
    launch(reference.rope_kv.rows[0], a, pool);

    Tensor q = heads_of(0, heads), k = heads_of(heads, kv_heads), v = heads_of(heads + kv_heads, kv_heads);
    KvPages cache{o.guarded(act, a.cache.k.shape), o.guarded(act, a.cache.v.shape)};
    run_best(best.rope, {q, a.cos, a.sin}, pool);
    run_best(best.rope, {k, a.cos, a.sin}, pool);
    run_best(best.kv_write, {k, v, a.slots, cache}, pool);
    expect_close(a.q, q, 1e-5 + rounding_of(act), "queries", 2);
    expect_close(a.cache.k, cache.k, 1e-5 + rounding_of(act), "keys", 2);
    expect_close(a.cache.v, cache.v, 1e-5 + rounding_of(act), "values", 2);
    o.check_guards();
  }
}

TEST(Fused, NormRouterIsNormProductAndChoice) {
  const Kernels best = Kernels::builtin(), reference = Kernels::reference();
  ThreadPool pool(2);
  Operands o(fresh_seed());
  const int64_t tokens = 5, hidden = 64, experts = 8, active = 3;
  const DType act = DType::kF32;
  NormRouterArgs a{.residual = o.guarded_copy(o.normal(act, {tokens, hidden})),
                   .delta = o.normal(act, {tokens, hidden}),
                   .norm_weight = o.normal(act, {hidden}),
                   .router = o.plain(act, 1, experts, hidden),
                   .router_bias = o.normal(act, {experts})};
  a.normed = o.guarded(act, a.residual.shape), a.logits = o.guarded(act, {tokens, experts});
  a.indices = o.guarded(DType::kI32, {tokens, active}), a.weights = o.guarded(DType::kF32, {tokens, active});
  NormRouterArgs b = a;
  b.residual = o.guarded_copy(a.residual);
  b.normed = o.guarded(act, a.residual.shape), b.logits = o.guarded(act, {tokens, experts});
  b.indices = o.guarded(DType::kI32, {tokens, active}), b.weights = o.guarded(DType::kF32, {tokens, active});
  launch(reference.norm_router.rows[0], a, pool);
  run_best(best.rms_norm,
           {.residual = b.residual, .delta = b.delta, .weight = b.norm_weight, .eps = b.eps, .out = b.normed}, pool);
  run_best(best.linear, {b.normed, b.router, b.router_bias, b.logits}, pool);
  run_best(best.router, {.logits = b.logits, .mode = b.mode, .indices = b.indices, .weights = b.weights}, pool);
  expect_same_bits(a.residual, b.residual, "residual");
  expect_close(a.normed, b.normed, 1e-5, "normed");
  expect_close(a.logits, b.logits, 1e-5, "logits");
  expect_same_bits(a.indices, b.indices, "indices");
  expect_close(a.weights, b.weights, 1e-5, "weights");
  o.check_guards();
}

// Three ranks with uneven columns, as threads: everyone's ids are those of whole rows.
TEST(Fused, SamplePartsIsSamplingOfWholeRows) {
  const Kernels reference = Kernels::reference();
  constexpr int kRanks = 3;
  const int64_t rows = 5, vocab = 300, begins[kRanks + 1] = {0, 110, 220, 300};
  Operands o(fresh_seed());
  const Tensor whole = o.normal(DType::kF32, {rows, vocab});
  std::vector<SampleSettings> rules(rows);
  for (int64_t r = 0; r < rows; ++r)
    rules[r] = {.temperature = r % 2 == 0 ? 0.0 : 0.9, .uniform = 0.2 * static_cast<double>(r)};
  const Tensor settings{rules.data(), {rows, sizeof(SampleSettings)}, DType::kU8};
  SampleArgs all{
      .logits = o.guarded_copy(whole), .settings = settings, .any_cut = false, .ids = o.guarded(DType::kI32, {rows})};
  ThreadPool pool(1);
  launch(reference.sample.rows[0], all, pool);

  std::vector<Tensor> parts, ids;
  for (int r = 0; r < kRanks; ++r) {
    const int64_t width = begins[r + 1] - begins[r];
    parts.push_back(o.guarded(DType::kF32, {rows, width}));
    ids.push_back(o.guarded(DType::kI32, {rows}));
    for (int64_t i = 0; i < rows; ++i)
      std::copy_n(whole.f32() + i * vocab + begins[r], width, parts.back().f32() + i * width);
  }
  std::vector<std::unique_ptr<Communicator>> ranks = make_thread_communicators(kRanks);
  std::vector<std::thread> threads;
  for (int r = 0; r < kRanks; ++r)
    threads.emplace_back([&, r] {
      ThreadPool own(1);
      SampleArgs mine = all;
      mine.logits = parts[static_cast<size_t>(r)], mine.ids = ids[static_cast<size_t>(r)];
      launch(reference.sample_parts.rows[0],
             SamplePartsArgs{.sample = mine,
                             .first = begins[r],
                             .widest = 110,
                             .vocab_size = vocab,
                             .communicator = ranks[static_cast<size_t>(r)].get()},
             own);
    });
  for (std::thread& t : threads) t.join();
  for (const Tensor& found : ids) expect_same_bits(found, all.ids, "ids");
  o.check_guards();
}

}  // namespace
}  // namespace tessera
