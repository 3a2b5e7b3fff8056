// Linear layers of any weight format: memory-bound for few tokens, register-tiled for many. See dot-inl.h for the order
// of summation.
#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/linear.cc"
#include <hwy/foreach_target.h>

#include "kernels/cpu/dot-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tessera::cpu::HWY_NAMESPACE {
namespace {

// Tokens prepared at a time; bounds the workspace.
constexpr int64_t kPassTokens = 768;

template <class W>
Verdict supports(const LinearArgs& a) {
  if (!W::reads(a.w)) return {"this row reads another weight format"};
  if (Verdict v = require_cpu_floats({&a.x, &a.bias, &a.out}); !v) return v;
  return require_cpu_weight(a.w);
}

int64_t workspace(const LinearArgs& a) {
  return std::min(a.x.dim(0), kPassTokens) * padded(a.w.k) * static_cast<int64_t>(sizeof(float));
}

// Rounds and stores the sums of rows [row, row + count) for one token.
void finish(const LinearArgs& a, const float* sums, int64_t token, int64_t row, int64_t count) {
  const F32 d;
  for (int64_t i = 0; i < count; i += kLanes) {
    V value = hn::LoadU(d, sums + i);
    if (a.bias.defined()) value = hn::Add(value, load(a.bias, row + i, count - i));
    store(a.out, token * a.w.n + row + i, count - i, value);
  }
}

// Rows [row, row + count) with tokens [token, token + token_count) of the pass that begins at `first`.
template <class W>
void block(const LinearArgs& a, const W& w, const float* x, int64_t first, int64_t row, int64_t count, int64_t token,
           int64_t token_count) {
  DotScratch scratch;
  typename W::Row rows[kBlockRows];
  const float* tokens[kBlockTokens];
  for (int64_t r = 0; r < count; ++r) rows[r] = w.row(row + r);
  for (int64_t t = 0; t < token_count; ++t) tokens[t] = x + (token + t) * padded(a.w.k);
  dot_block(w, rows, count, tokens, token_count, scratch);
  for (int64_t t = 0; t < token_count; ++t) finish(a, scratch.sums + t * kBlockRows, first + token + t, row, count);
}

template <class W>
void pass(const LinearArgs& a, const W& w, const float* x, int64_t first, int64_t tokens, ThreadPool& pool) {
  const int64_t n = a.w.n;
  // Few tokens: about eight pieces a thread, so that a small matrix is spread too.
  const int64_t share = (n / (8 * pool.size()) + kTileRows - 1) / kTileRows * kTileRows;
  const int64_t height = tokens > kFusedTile ? kBlockRows : std::clamp(share, int64_t{8}, kBlockRows);
  const int64_t blocks = (n + height - 1) / height, parts = (tokens + kBlockTokens - 1) / kBlockTokens;
  pool.parallel_for(blocks * parts, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i % blocks * height, token = i / blocks * kBlockTokens;
      block(a, w, x, first, row, std::min(height, n - row), token, std::min(kBlockTokens, tokens - token));
    }
  });
}

template <class W>
void launch(const LinearArgs& a, Stream& stream) {
  const int64_t k = a.w.k, step = padded(k);
  float* x = static_cast<float*>(stream.workspace);
  for (int64_t first = 0; first < a.x.dim(0); first += kPassTokens) {
    const int64_t tokens = std::min(kPassTokens, a.x.dim(0) - first);
    stream.pool->parallel_for(tokens, 8, [&](int64_t begin, int64_t end, int) {
      for (int64_t t = begin; t < end; ++t) prepare_token(a.x, (first + t) * k, k, W::kPaired, x + t * step);
    });
    pass(a, W(a.w), x, first, tokens, *stream.pool);
  }
}

void add_rows(Kernels& kernels) {
  const auto add = [&]<class W>(const char* name, const char* summary, std::type_identity<W>) {
    kernels.linear.rows.push_back({name, DeviceType::kCpu, summary, supports<W>, workspace, launch<W>});
  };
  add("linear_any_mxfp4_" TS_ARCH, "MXFP4 weights used exactly, F32 sums; near memory speed for few tokens",
      std::type_identity<Mxfp4Weights>());
  add("linear_any_bf16_" TS_ARCH, "BF16 weights, F32 sums; at memory speed for few tokens",
      std::type_identity<PlainWeights<hwy::bfloat16_t>>());
  add("linear_any_f16_" TS_ARCH, "F16 weights, F32 sums", std::type_identity<PlainWeights<hwy::float16_t>>());
  add("linear_any_f32_" TS_ARCH, "F32 weights, F32 sums", std::type_identity<PlainWeights<float>>());
}

}  // namespace
}  // namespace tessera::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tessera::cpu {
HWY_EXPORT(add_rows);
void add_linear(Kernels& kernels, int64_t target) {
  TS_FOR_TARGET(add_rows, target)(kernels);
}
}  // namespace tessera::cpu
#endif
