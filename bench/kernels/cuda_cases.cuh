// Operands of realistic cases: experts in both layouts, and sequences in a paged cache whose unused slots are poisoned.
#pragma once

#include <numeric>

#include "bench/kernels/cuda_harness.cuh"
#include "bench/kernels/cuda_reference.cuh"
#include "kernels/cuda/fp8_rows.h"
#include "kernels/cuda/mxfp4_atoms.h"

namespace tessera::bench {

inline AnyVector any(const Tensor& t) { return {t.data, t.dtype}; }

// MXFP4 in the checkpoint's layout: all codes, scales 2^-9 .. 2^-4.
inline Weight mxfp4(Pool& pool, int64_t experts, int64_t n, int64_t k) {
  Weight w;
  w.format = WeightFormat::kMxfp4;
  w.values = pool.raw(DType::kU8, {experts, n, k / 32, 16});
  w.scales = pool.raw(DType::kU8, {experts, n, k / 32});
  fill_bytes(w.values.data, w.values.numel(), 0, 256, pool.seeds().next());
  fill_bytes(w.scales.data, w.scales.numel(), 118, 6, pool.seeds().next());
  w.experts = experts;
  w.n = n;
  w.k = k;
  return w;
}

inline Weight atoms_of(Pool& pool, const Weight& w) {
  Weight a = w;
  a.format = WeightFormat::kMxfp4Atoms;
  a.scales = {};
  a.values = pool.raw(DType::kU8, {w.experts, w.n / 64, w.k / 64, cuda::kAtomBytes});
  Tensor largest = pool.ints({0}, {1});
  cuda::to_atoms_device(w, a.values.as<uint8_t>(), largest.i32(), nullptr);
  check(cudaDeviceSynchronize(), "to_atoms");
  TS_CHECK(download(largest)[0] <= cuda::kAtomMaxScale);
  return a;
}

inline Weight fp8_of(Pool& pool, const Tensor& plain) {
  Weight w;
  w.format = WeightFormat::kFp8Rows;
  w.n = plain.dim(0);
  w.k = plain.dim(1);
  w.values = pool.poisoned(DType::kF8E4M3, {w.n, w.k});
  w.scales = pool.poisoned(DType::kF32, {w.n});
  cuda::quantize_fp8_rows(plain, w.values.as<uint8_t>(), w.scales.f32(), nullptr);
  check(cudaDeviceSynchronize(), "quantize_fp8_rows");
  return w;
}

// A distinct experts a token.
inline std::vector<int32_t> random_routes(Seeds& seeds, int64_t tokens, int64_t active, int64_t experts) {
  std::vector<int32_t> out;
  std::vector<int32_t> all(static_cast<size_t>(experts));
  std::iota(all.begin(), all.end(), 0);
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t a = 0; a < active; ++a) {
      std::swap(all[a], all[a + seeds.below(experts - a)]);
      out.push_back(all[a]);
    }
  return out;
}

struct MoeCase {
  MoeArgs args;  // checkpoint layout
  Weight gate_up_atoms, down_atoms;
};

inline MoeCase moe_case(Pool& pool, int64_t tokens, int64_t experts, int64_t active, int64_t h, int64_t i, DType act, bool crowded) {
  MoeCase c;
  MoeArgs& a = c.args;
  a.x = pool.normal(act, {tokens, h}, 1.0f);
  std::vector<int32_t> routes = random_routes(pool.seeds(), tokens, active, crowded ? active : experts);
  if (crowded)
    for (int32_t& e : routes) e = static_cast<int32_t>(experts - 1 - e);
  a.indices = pool.ints(routes, {tokens, active});
  a.weights = pool.normal(DType::kF32, {tokens, active}, 0.5f);
  a.gate_up = mxfp4(pool, experts, 2 * i, h);
  a.gate_up_bias = pool.normal(DType::kBF16, {experts, 2 * i}, 0.5f);
  a.down = mxfp4(pool, experts, h, i);
  a.down_bias = pool.normal(DType::kBF16, {experts, h}, 0.5f);
  a.out = pool.poisoned(act, {tokens, h});
  if (cuda::fits_atoms(2 * i, h) && cuda::fits_atoms(h, i) && cuda::current_capability() >= 80) {
    c.gate_up_atoms = atoms_of(pool, a.gate_up);
    c.down_atoms = atoms_of(pool, a.down);
  }
  return c;
}

inline std::vector<double> moe_reference(Pool& pool, const MoeArgs& a) {
  int64_t tokens = a.x.dim(0), h = a.x.dim(1), i = a.down.k, active = a.indices.dim(1);
  Tensor inner = pool.raw(DType::kF64, {tokens * active, i}), out = pool.raw(DType::kF64, {tokens, h});
  ref_moe_inner<<<cuda::ceil_div(tokens * active * i, 128), 128>>>(
      any(a.x), a.indices.i32(), a.gate_up.values.as<uint8_t>(), a.gate_up.scales.as<uint8_t>(), any(a.gate_up_bias), a.limit,
      inner.as<double>(), tokens * active, active, h, i);
  ref_moe_out<<<cuda::ceil_div(tokens * h, 128), 128>>>(inner.as<double>(), a.indices.i32(), a.weights.f32(),
                                                        a.down.values.as<uint8_t>(), a.down.scales.as<uint8_t>(), any(a.down_bias),
                                                        out.as<double>(), tokens, active, h, i);
  check(cudaDeviceSynchronize(), "reference");
  return download(out);
}

struct AttentionCase {
  AttentionArgs args;
  std::vector<double> reference;
};

// Every value becomes its nearest in E4M3.
inline void round_to_e4m3(const Tensor& t) {
  std::vector<double> values = download(t);
  std::vector<char> bytes(static_cast<size_t>(t.bytes()));
  for (size_t i = 0; i < values.size(); ++i) {
    const float v = e4m3_to_float(float_to_e4m3(static_cast<float>(values[i])));
    if (t.dtype == DType::kF32) {
      reinterpret_cast<float*>(bytes.data())[i] = v;
    } else {
      reinterpret_cast<uint16_t*>(bytes.data())[i] = t.dtype == DType::kBF16 ? float_to_bf16(v) : float_to_f16(v);
    }
  }
  check(cudaMemcpy(t.data, bytes.data(), bytes.size(), cudaMemcpyHostToDevice), "upload");
}

// Sequences with `queries[b]` queries at the end of `context[b]` keys. Pages are shuffled; slots that may not be read hold NaN,
// and page table entries that may not be read name a page full of NaN.
inline AttentionCase attention_case(Pool& pool, const std::vector<int32_t>& queries, const std::vector<int32_t>& context,
                                    int64_t q_heads, int64_t kv_heads, int64_t d, int64_t page, int64_t window, bool sinks,
                                    DType act, const KernelRow<KvWriteArgs>& write, bool with_reference, bool fp8 = false) {
  AttentionCase c;
  int64_t batch = static_cast<int64_t>(queries.size());
  std::vector<int32_t> query_start{0}, key_start{0};
  for (int64_t b = 0; b < batch; ++b) {
    query_start.push_back(query_start.back() + queries[b]);
    key_start.push_back(key_start.back() + context[b]);
  }
  int64_t longest = *std::max_element(context.begin(), context.end());
  int64_t per_sequence = cuda::ceil_div(longest, page) + 1;
  int64_t pages = batch * per_sequence + 1;
  std::vector<int32_t> order(static_cast<size_t>(pages - 1));
  std::iota(order.begin(), order.end(), 1);  // page 0 stays poisoned
  for (int64_t i = pages - 2; i > 0; --i) std::swap(order[i], order[pool.seeds().below(i + 1)]);
  std::vector<int32_t> table(static_cast<size_t>(batch * per_sequence), 0), slots;
  for (int64_t b = 0; b < batch; ++b) {
    int64_t first_query = context[b] - queries[b];
    int64_t first = window > 0 ? std::max<int64_t>(0, first_query - window + 1) : 0;
    for (int64_t i = first / page; i * page < context[b]; ++i) table[b * per_sequence + i] = order[b * per_sequence + i];
    for (int64_t key = 0; key < context[b]; ++key)
      slots.push_back(key < first ? -1 : static_cast<int32_t>(table[b * per_sequence + key / page] * page + key % page));
  }
  AttentionArgs& a = c.args;
  int64_t tokens = query_start.back(), keys = key_start.back();
  a.q = pool.normal(act, {tokens, q_heads, d}, 1.5f);
  Tensor k = pool.normal(act, {keys, kv_heads, d}, 1.0f), v = pool.normal(act, {keys, kv_heads, d}, 1.0f);
  if (fp8) round_to_e4m3(k), round_to_e4m3(v);
  a.cache.k = pool.poisoned(fp8 ? DType::kF8E4M3 : act, {pages, kv_heads, page, d});
  a.cache.v = pool.poisoned(fp8 ? DType::kF8E4M3 : act, {pages, kv_heads, page, d});
  Tensor slot_tensor = pool.ints(slots, {keys});
  Stream stream;
  write.launch({k, v, slot_tensor, a.cache}, stream);
  a.page_table = pool.ints(table, {batch, per_sequence});
  a.query_start = pool.ints(query_start, {batch + 1});
  a.context = pool.ints(context, {batch});
  if (sinks) a.sinks = pool.normal(DType::kBF16, {q_heads}, 1.0f);
  a.window = window;
  a.scale = 1.0f / std::sqrt(static_cast<float>(d));
  a.max_queries = *std::max_element(queries.begin(), queries.end());
  a.max_context = longest;
  a.out = pool.poisoned(act, {tokens, q_heads, d});
  check(cudaDeviceSynchronize(), "kv_write");
  if (!with_reference) return c;
  Tensor starts = pool.ints(key_start, {batch + 1}), out = pool.raw(DType::kF64, {tokens, q_heads, d});
  check(cudaFuncSetAttribute(ref_attention, cudaFuncAttributeMaxDynamicSharedMemorySize, 160 * 1024), "reference");
  ref_attention<<<tokens * q_heads, 128, longest * 8>>>(any(a.q), any(k), any(v), starts.i32(), a.query_start.i32(),
                                                        a.context.i32(), any(a.sinks), out.as<double>(), batch, q_heads, kv_heads,
                                                        d, window, a.scale);
  check(cudaGetLastError(), "reference");
  check(cudaDeviceSynchronize(), "reference");
  c.reference = download(out);
  return c;
}

}  // namespace tessera::bench
