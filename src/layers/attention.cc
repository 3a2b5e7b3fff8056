#include "layers/attention.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <optional>

namespace tessera {

namespace {

// YaRN (arXiv 2309.00071): interpolate slow dimensions, keep fast ones, ramp between.
void scale_yarn(std::vector<float>& inv_freq, double theta, int64_t head_dim, const RopeScaling& s) {
  auto dimension_of = [&](double rotations) {
    return static_cast<double>(head_dim) *
           std::log(s.original_max_position_embeddings / (rotations * 2 * std::numbers::pi)) / (2 * std::log(theta));
  };
  double low = dimension_of(s.beta_fast), high = dimension_of(s.beta_slow);
  if (s.truncate) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(head_dim - 1));
  if (low == high) high += 0.001;  // transformers' guard against a division by zero
  for (size_t i = 0; i < inv_freq.size(); ++i) {
    // transformers computes these in F32
    float ramp =
        std::clamp((static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low), 0.0f, 1.0f);
    float keep = 1.0f - ramp;
    float base = static_cast<float>(std::pow(theta, 2.0 * static_cast<double>(i) / static_cast<double>(head_dim)));
    inv_freq[i] = 1.0f / (static_cast<float>(s.factor) * base) * (1.0f - keep) + 1.0f / base * keep;
  }
}

// Llama 3.1: long wavelengths are divided by the factor, short ones kept, the middle blended.
void scale_llama3(std::vector<float>& inv_freq, const RopeScaling& s) {
  double low_wavelength = s.original_max_position_embeddings / s.low_freq_factor;
  double high_wavelength = s.original_max_position_embeddings / s.high_freq_factor;
  for (float& f : inv_freq) {
    double wavelength = 2 * std::numbers::pi / f;
    if (wavelength > low_wavelength) {
      f = static_cast<float>(f / s.factor);
    } else if (wavelength >= high_wavelength) {
      double smooth = (s.original_max_position_embeddings / wavelength - s.low_freq_factor) /
                      (s.high_freq_factor - s.low_freq_factor);
      f = static_cast<float>((1 - smooth) * f / s.factor + smooth * f);
    }
  }
}

}  // namespace

Rope make_rope(double theta, int64_t head_dim, const RopeScaling& s) {
  Rope rope;
  rope.inv_freq.resize(static_cast<size_t>(head_dim / 2));
  for (size_t i = 0; i < rope.inv_freq.size(); ++i) {
    rope.inv_freq[i] =
        1.0f / static_cast<float>(std::pow(theta, 2.0 * static_cast<double>(i) / static_cast<double>(head_dim)));
  }
  switch (s.type) {
    case RopeScaling::Type::kDefault:
      break;
    case RopeScaling::Type::kLinear:
      for (float& f : rope.inv_freq) f /= static_cast<float>(s.factor);
      break;
    case RopeScaling::Type::kLlama3:
      scale_llama3(rope.inv_freq, s);
      break;
    case RopeScaling::Type::kYarn:
      scale_yarn(rope.inv_freq, theta, head_dim, s);
      rope.factor = static_cast<float>(s.attention_factor > 0 ? s.attention_factor
                                       : s.factor > 1         ? 0.1 * std::log(s.factor) + 1.0
                                                              : 1.0);
      break;
  }
  return rope;
}

RopeTables rope_tables(Step& step, const Rope& rope) {
  auto half = static_cast<int64_t>(rope.inv_freq.size());
  RopeTables tables{step.alloc({step.tokens(), half}), step.alloc({step.tokens(), half})};
  Tensor inv_freq{const_cast<float*>(rope.inv_freq.data()), {half}, DType::kF32, Device{}};
  step.run(step.kernels->rope_table, RopeTableArgs{.positions = step.positions,
                                                   .inv_freq = inv_freq,
                                                   .factor = rope.factor,
                                                   .cos = tables.cos,
                                                   .sin = tables.sin});
  return tables;
}

void Attention::declare(WeightPlan& plan, int64_t hidden, const Options& options) {
  plan.set_heads({heads, kv_heads, head_dim});
  q.declare(plan, "self_attn.q_proj", heads * head_dim, hidden, Split::kQueryHeads, options.qkv_bias);
  k.declare(plan, "self_attn.k_proj", kv_heads * head_dim, hidden, Split::kKvHeads, options.qkv_bias);
  v.declare(plan, "self_attn.v_proj", kv_heads * head_dim, hidden, Split::kKvHeads, options.qkv_bias);
  o.declare(plan, "self_attn.o_proj", hidden, heads * head_dim, Split::kHeadCols, options.o_bias);
  if (options.head_norms) {
    q_norm.eps = k_norm.eps = options.norm_eps;
    q_norm.declare(plan, "self_attn.q_norm", head_dim);
    k_norm.declare(plan, "self_attn.k_norm", head_dim);
  }
  if (options.with_sinks) plan.vector(sinks, "self_attn.sinks", heads, Split::kQueryHeads);
}

namespace {

// Whether b's bytes follow a's, as they do where weights were placed one after another.
bool follows(const Tensor& a, const Tensor& b) {
  if (!a.defined() && !b.defined()) return true;
  return a.defined() == b.defined() && a.dtype == b.dtype && a.as<char>() + a.bytes() == b.as<char>();
}

// q, k and v as one matrix, when they lie so in memory.
std::optional<Linear> packed_projection(const Attention& a) {
  for (const Linear* l : {&a.q, &a.k, &a.v})
    if (l->w.format != a.q.w.format || l->w.format == WeightFormat::kMxfp4 || !l->bias.defined()) return std::nullopt;
  if (!follows(a.q.w.values, a.k.w.values) || !follows(a.k.w.values, a.v.w.values)) return std::nullopt;
  if (!follows(a.q.w.scales, a.k.w.scales) || !follows(a.k.w.scales, a.v.w.scales)) return std::nullopt;
  if (!follows(a.q.bias, a.k.bias) || !follows(a.k.bias, a.v.bias)) return std::nullopt;
  Linear packed = a.q;
  packed.w.n = (a.own_heads() + 2 * a.own_kv_heads()) * a.head_dim;
  packed.w.values.shape = {packed.w.n, packed.w.k};
  packed.bias.shape = {packed.w.n};
  if (packed.w.scales.defined()) packed.w.scales.shape = {packed.w.n};
  return packed;
}

// The packed heads of one token lie one after another, so rotation and cache write take them where they are.
void one_packed_token(Step& step, const RopeKvArgs& args, AttentionArgs attended, const Attention& a) {
  auto heads = [&](int64_t from, int64_t count) {
    return Tensor{args.packed.as<char>() + from * a.head_dim * dtype_size(args.packed.dtype),
                  {1, count, a.head_dim},
                  args.packed.dtype,
                  args.packed.device};
  };
  const int64_t queries = a.own_heads(), keys = a.own_kv_heads();
  step.run(step.kernels->rope, RopeArgs{.x = heads(0, queries + keys), .cos = args.cos, .sin = args.sin});
  step.run(step.kernels->kv_write,
           KvWriteArgs{
               .k = heads(queries, keys), .v = heads(queries + keys, keys), .slots = args.slots, .cache = args.cache});
  attended.q = heads(0, queries);
  step.run(step.kernels->attention, attended);
}

// One product for all three, then rotation, cache write and attention in one or two passes; false, and nothing done,
// when no kernel does that.
bool packed_attention(Step& step, const RopeKvArgs& rotated, const AttentionArgs& attended, const Attention& a,
                      const Tensor& x) {
  const std::optional<Linear> packed = packed_projection(a);
  if (!packed || a.q_norm.weight.defined()) return false;
  ScratchScope scope(step);
  RopeKvArgs args = rotated;
  args.packed = step.alloc({x.dim(0), a.own_heads() + 2 * a.own_kv_heads(), a.head_dim});
  const bool fused = step.kernels->rope_kv.choose(args) != nullptr;
  // Where a kernel from the hub rotates, one token at least keeps the one product.
  if (!fused && (x.dim(0) != 1 || step.kernels->rope_kv.rows.empty() || a.head_dim % 8 != 0)) return false;
  linear_into(step, *packed, x, args.packed.reshape({x.dim(0), packed->w.n}));
  if (!fused) {
    one_packed_token(step, args, attended, a);
    return true;
  }
  if (step.try_run(step.kernels->rope_attention, RopeAttentionArgs{.rope = args, .attention = attended})) return true;
  step.run(step.kernels->rope_kv, args);
  step.run(step.kernels->attention, attended);
  return true;
}

// Projections, rotation and cache write of x [T, H], apart.
void rotate_and_write(Step& step, RopeKvArgs& rotated, const Attention& a, const Tensor& x) {
  const int64_t tokens = x.dim(0);
  const Tensor& q = rotated.q;
  Tensor k = step.alloc({tokens, a.own_kv_heads(), a.head_dim}), v = step.alloc({tokens, a.own_kv_heads(), a.head_dim});
  linear_into(step, a.q, x, q.reshape({tokens, a.own_heads() * a.head_dim}));
  linear_into(step, a.k, x, k.reshape({tokens, a.own_kv_heads() * a.head_dim}));
  linear_into(step, a.v, x, v.reshape({tokens, a.own_kv_heads() * a.head_dim}));
  if (a.q_norm.weight.defined()) {
    norm_in_place(step, a.q_norm, q, a.head_dim);
    norm_in_place(step, a.k_norm, k, a.head_dim);
  }
  rotated.k = k;
  rotated.v = v;
  if (step.try_run(step.kernels->rope_kv, rotated)) return;
  step.run(step.kernels->rope, RopeArgs{.x = q, .cos = rotated.cos, .sin = rotated.sin});
  step.run(step.kernels->rope, RopeArgs{.x = k, .cos = rotated.cos, .sin = rotated.sin});
  step.run(step.kernels->kv_write, KvWriteArgs{.k = k, .v = v, .slots = rotated.slots, .cache = rotated.cache});
}

AttentionArgs attention_args(const Step& step, const LayerCacheView& cache, const Attention& a, const Tensor& q,
                             const Tensor& out) {
  return {.q = q,
          .cache = cache.pages,
          .page_table = cache.page_table,
          .query_start = step.query_start,
          .context = step.context,
          .sinks = a.sinks,
          .window = a.window,
          .scale = 1.0f / std::sqrt(static_cast<float>(a.head_dim)),
          .max_queries = step.max_queries,
          .max_context = step.max_context,
          .out = out};
}

}  // namespace

Pending attention(Step& step, int layer, const Attention& a, const RopeTables& rope, const Tensor& x) {
  const int64_t tokens = x.dim(0);
  const LayerCacheView& cache = step.cache[static_cast<size_t>(layer)];
  Tensor q = step.alloc({tokens, a.own_heads(), a.head_dim}), out = step.alloc({tokens, a.own_heads(), a.head_dim});
  RopeKvArgs rotated{.q = q, .cos = rope.cos, .sin = rope.sin, .slots = cache.slots, .cache = cache.pages};
  const AttentionArgs attended = attention_args(step, cache, a, q, out);
  if (!packed_attention(step, rotated, attended, a, x)) {
    rotate_and_write(step, rotated, a, x);
    step.run(step.kernels->attention, attended);
  }
  Tensor projected = step.alloc({tokens, a.o.w.n});
  const LinearArgs back{
      .x = out.reshape({tokens, a.own_heads() * a.head_dim}), .w = a.o.w, .bias = a.o.bias, .out = projected};
  Communicator* over =
      step.split() && step.ranks->tensor != nullptr && step.ranks->tensor->size() > 1 ? step.ranks->tensor : nullptr;
  if (over != nullptr && step.probe == nullptr) {
    if (step.try_run(step.kernels->linear_send, LinearSendArgs{.linear = back, .communicator = over}))
      return {projected, over, true};
    step.run(step.kernels->linear, back);
    return {projected, over};
  }
  step.run(step.kernels->linear, back);
  step.all_reduce(over, projected);
  return {projected};
}

}  // namespace tessera
