// Mixture of experts of any weight format. Tokens are grouped by expert, so that an expert's rows are expanded once for
// all of its tokens; three parallel regions: gate_up and activation over (expert, 32 inner values), down over (expert,
// 64 rows), then the weighted sum of each token's slots in their order. Inner values stay in F32.
#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/moe.cc"
#include <hwy/foreach_target.h>

#include "kernels/cpu/dot-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tessera::cpu::HWY_NAMESPACE {
namespace {

// Tokens routed at a time; bounds the workspace.
constexpr int64_t kPassTokens = 512;
// Inner values of a gate_up task: its gates and ups fill one block of rows, its results one chunk of the down product.
constexpr int64_t kInner = kBlockRows / 2;
static_assert(kInner == kChunk);

Verdict supports_any(const MoeArgs& a) {
  if (Verdict v = require_cpu_floats({&a.x, &a.gate_up_bias, &a.down_bias, &a.out}); !v) return v;
  if (Verdict v = require_cpu_weight(a.gate_up); !v) return v;
  return require_cpu_weight(a.down);
}

Verdict supports_mxfp4(const MoeArgs& a) {
  if (!Mxfp4Weights::reads(a.gate_up) || !Mxfp4Weights::reads(a.down)) return {"the experts are not in MXFP4"};
  return supports_any(a);
}

// The workspace of one pass. A slot is a (token, place among its experts) pair, numbered token * A + place.
struct Plan {
  int64_t tokens, slots, experts, active_experts;
  int64_t x_step, inner_step;
  float* x;         // [tokens, x_step] prepared tokens
  float* inner;     // [slots, inner_step] prepared inner values
  float* down;      // [slots, H]
  int32_t* order;   // [slots] slots by expert, in order of token within one
  int32_t* starts;  // [E + 1] of each expert's slots in `order`
  int32_t* used;    // [active_experts] experts that have a slot

  static int64_t aligned(int64_t bytes) { return (bytes + 63) / 64 * 64; }

  // Lays the arrays out in `base`, or only counts. Returns the bytes.
  int64_t lay_out(const MoeArgs& a, int64_t pass_tokens, char* base) {
    tokens = pass_tokens, slots = pass_tokens * a.indices.dim(1), experts = a.gate_up.experts;
    x_step = padded(a.gate_up.k), inner_step = padded(a.down.k);
    int64_t at = 0;
    const auto take = [&](auto*& p, int64_t count) {
      p = reinterpret_cast<std::remove_reference_t<decltype(p)>>(base + at);
      at += aligned(count * static_cast<int64_t>(sizeof *p));
    };
    take(x, tokens * x_step), take(inner, slots * inner_step), take(down, slots * a.down.n);
    take(order, slots), take(starts, experts + 1), take(used, experts);
    return at;
  }
};

int64_t workspace(const MoeArgs& a) {
  return Plan().lay_out(a, std::min(a.x.dim(0), kPassTokens), nullptr);
}

// The expert's place among this rank's, or -1.
int64_t local_expert(const MoeArgs& a, int64_t index) {
  const int64_t e = index - a.first_expert;
  return e >= 0 && e < a.gate_up.experts ? e : -1;
}

// Counting sort of the slots by expert; stable, so the order within an expert is that of the tokens.
void sort_slots(const MoeArgs& a, const int32_t* indices, Plan& plan) {
  std::fill(plan.starts, plan.starts + plan.experts + 1, 0);
  for (int64_t s = 0; s < plan.slots; ++s)
    if (const int64_t e = local_expert(a, indices[s]); e >= 0) ++plan.starts[e + 1];
  plan.active_experts = 0;
  for (int64_t e = 0; e < plan.experts; ++e) {
    if (plan.starts[e + 1] > 0) plan.used[plan.active_experts++] = static_cast<int32_t>(e);
    plan.starts[e + 1] += plan.starts[e];
  }
  for (int64_t s = 0; s < plan.slots; ++s)
    if (const int64_t e = local_expert(a, indices[s]); e >= 0) plan.order[plan.starts[e]++] = static_cast<int32_t>(s);
  for (int64_t e = plan.experts; e > 0; --e) plan.starts[e] = plan.starts[e - 1];
  plan.starts[0] = 0;
}

// 32 inner values of one slot from `sums`, the 64 gate_up products of a task, into the chunk `out`.
void activate(const MoeArgs& a, float* sums, int64_t expert, int64_t first, int64_t count, bool pairs, float* out) {
  const F32 d;
  const bool oai = a.activation == MoeActivation::kSwigluOai;
  HWY_ALIGN float gates[kInner], ups[kInner];
  for (int64_t i = 0; i < kInner; ++i) gates[i] = sums[oai ? 2 * i : i], ups[i] = sums[oai ? 2 * i + 1 : kInner + i];
  if (a.gate_up_bias.defined()) {
    const int64_t inner = a.down.k, bias = expert * a.gate_up.n;
    HWY_ALIGN float wide[2 * kInner] = {};
    for (int64_t i = 0; i < (oai ? 2 * count : count); i += kLanes) {
      hn::StoreU(load(a.gate_up_bias, bias + (oai ? 2 * first : first) + i, (oai ? 2 * count : count) - i), d,
                 wide + i);
    }
    for (int64_t i = 0; i < count && !oai; i += kLanes) {
      hn::StoreU(load(a.gate_up_bias, bias + inner + first + i, count - i), d, wide + kInner + i);
    }
    for (int64_t i = 0; i < kInner; ++i)
      gates[i] += wide[oai ? 2 * i : i], ups[i] += wide[oai ? 2 * i + 1 : kInner + i];
  }
  const V limit = hn::Set(d, a.limit), one = hn::Set(d, 1.0f);
  HWY_ALIGN float values[kInner];
  for (int64_t i = 0; i < kInner; i += kLanes) {
    V gate = hn::Load(d, gates + i), up = hn::Load(d, ups + i);
    if (oai) {
      gate = hn::Min(gate, limit);
      up = hn::Max(hn::Min(up, limit), hn::Neg(limit));
      gate = hn::Mul(gate, sigmoid(hn::Mul(gate, hn::Set(d, 1.702f))));
      up = hn::Add(up, one);
    } else {
      gate = hn::Mul(gate, sigmoid(gate));
    }
    hn::Store(hn::Mul(up, gate), d, values + i);
  }
  for (int64_t i = count; i < kInner; ++i) values[i] = 0;
  for (int64_t i = 0; i < kInner; ++i) out[pairs ? paired_index(i) : i] = values[i];
}

template <class W>
void gate_up_task(const MoeArgs& a, const Plan& plan, const W& w, int64_t expert, int64_t first) {
  DotScratch scratch;
  typename W::Row rows[kBlockRows];
  const float* tokens[kBlockTokens];
  const int64_t inner = a.down.k, count = std::min(kInner, inner - first), begin = expert * a.gate_up.n;
  const int64_t active = a.indices.dim(1);
  const bool pairs = paired(a.down);
  for (int64_t s = plan.starts[expert]; s < plan.starts[expert + 1]; s += kBlockTokens) {
    const int64_t group = std::min<int64_t>(kBlockTokens, plan.starts[expert + 1] - s);
    for (int64_t r = 0; r < kBlockRows; ++r) {
      // Past the end, rows repeat; their results are dropped.
      int64_t row = a.activation == MoeActivation::kSwigluOai
                        ? std::min(2 * first + r, 2 * inner - 1)
                        : r / kInner * inner + std::min(first + r % kInner, inner - 1);
      rows[r] = w.row(begin + row);
    }
    for (int64_t t = 0; t < group; ++t) tokens[t] = plan.x + plan.order[s + t] / active * plan.x_step;
    dot_block(w, rows, kBlockRows, tokens, group, scratch);
    for (int64_t t = 0; t < group; ++t) {
      activate(a, scratch.sums + t * kBlockRows, expert, first, count, pairs,
               plan.inner + plan.order[s + t] * plan.inner_step + first);
    }
  }
}

template <class W>
void down_task(const MoeArgs& a, const Plan& plan, const W& w, int64_t expert, int64_t row) {
  const F32 d;
  DotScratch scratch;
  typename W::Row rows[kBlockRows];
  const float* tokens[kBlockTokens];
  const int64_t h = a.down.n, count = std::min(kBlockRows, h - row);
  for (int64_t s = plan.starts[expert]; s < plan.starts[expert + 1]; s += kBlockTokens) {
    const int64_t group = std::min<int64_t>(kBlockTokens, plan.starts[expert + 1] - s);
    for (int64_t r = 0; r < count; ++r) rows[r] = w.row(expert * h + row + r);
    for (int64_t t = 0; t < group; ++t) tokens[t] = plan.inner + plan.order[s + t] * plan.inner_step;
    if (a.down.k > 0) {
      dot_block(w, rows, count, tokens, group, scratch);
    } else {
      std::fill_n(scratch.sums, group * kBlockRows, 0.0f);
    }
    for (int64_t t = 0; t < group; ++t) {
      float* out = plan.down + plan.order[s + t] * h + row;
      for (int64_t i = 0; i < count; i += kLanes) {
        V sum = hn::LoadU(d, scratch.sums + t * kBlockRows + i);
        if (a.down_bias.defined()) sum = hn::Add(sum, load(a.down_bias, expert * h + row + i, count - i));
        store(out + i, count - i, sum);
      }
    }
  }
}

// Elements [begin, end) of a token's output.
void combine(const MoeArgs& a, const Plan& plan, int64_t first, int64_t token, int64_t begin, int64_t end) {
  const F32 d;
  const int64_t active = a.indices.dim(1), h = a.down.n;
  const float* weights = a.weights.f32() + (first + token) * active;
  const int32_t* experts = a.indices.i32() + (first + token) * active;
  for (int64_t i = begin; i < end; i += kLanes) {
    V sum = hn::Zero(d);
    for (int64_t slot = 0; slot < active; ++slot) {
      if (local_expert(a, experts[slot]) < 0) continue;
      sum = hn::MulAdd(hn::Set(d, weights[slot]), load(plan.down + (token * active + slot) * h + i, end - i), sum);
    }
    store(a.out, (first + token) * h + i, end - i, sum);
  }
}

void pass(const MoeArgs& a, Plan& plan, int64_t first, ThreadPool& pool) {
  const int64_t k = a.gate_up.k, h = a.down.n, pieces = (a.down.k + kInner - 1) / kInner;
  pool.parallel_for(plan.tokens, 8, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t)
      prepare_token(a.x, (first + t) * k, k, paired(a.gate_up), plan.x + t * plan.x_step);
  });
  sort_slots(a, a.indices.i32() + first * a.indices.dim(1), plan);
  with_weights(a.gate_up, [&](const auto& w) {
    pool.parallel_for(plan.active_experts * pieces, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) gate_up_task(a, plan, w, plan.used[i / pieces], i % pieces * kInner);
    });
  });
  const int64_t blocks = (h + kBlockRows - 1) / kBlockRows;
  with_weights(a.down, [&](const auto& w) {
    pool.parallel_for(plan.active_experts * blocks, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) down_task(a, plan, w, plan.used[i / blocks], i % blocks * kBlockRows);
    });
  });
  pool.parallel_for(plan.tokens, 8, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) combine(a, plan, first, t, 0, h);
  });
}

void launch(const MoeArgs& a, Stream& stream) {
  for (int64_t first = 0; first < a.x.dim(0); first += kPassTokens) {
    Plan plan;
    plan.lay_out(a, std::min(kPassTokens, a.x.dim(0) - first), static_cast<char*>(stream.workspace));
    pass(a, plan, first, *stream.pool);
  }
}

void add_rows(Kernels& kernels) {
  kernels.moe.rows.push_back({"moe_any_mxfp4_" TS_ARCH, DeviceType::kCpu,
                              "MXFP4 experts used exactly, tokens grouped by expert, F32 sums", supports_mxfp4,
                              workspace, launch});
  kernels.moe.rows.push_back({"moe_any_any_" TS_ARCH, DeviceType::kCpu,
                              "F32, BF16, F16 or mixed experts, tokens grouped by expert, F32 sums", supports_any,
                              workspace, launch});
}

}  // namespace
}  // namespace tessera::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tessera::cpu {
HWY_EXPORT(add_rows);
void add_moe(Kernels& kernels, int64_t target) {
  TS_FOR_TARGET(add_rows, target)(kernels);
}
}  // namespace tessera::cpu
#endif
