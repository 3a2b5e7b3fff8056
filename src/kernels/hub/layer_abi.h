// What a hub kernel of each layer looks like: function, arguments, and the kinds of problem that are told apart when it
// is tried. docs/kernel-abi.md is the same for people who write kernels.
#pragma once

#include <array>
#include <bit>
#include <span>
#include <string_view>

#include "kernels/hub/module.h"

namespace tessera::hub_kernels {

// A layer's name as models and mappings say it, and the function that computes it.
struct Layer {
  const char* name;
  const char* function;
  const char* op;  // of kernels/table.h
  // A second function, which libraries may have: one that does the residual's add too, or that computes a rank's part
  // of the experts.
  const char* second = nullptr;
};
std::span<const Layer> layers();
// Null for an unknown name.
const Layer* find_layer(std::string_view name);

// A kind of problem: all that matters but the number of tokens. Trials are remembered by it.
using Key = std::array<int64_t, 16>;

inline int64_t key_of(float v) {
  return std::bit_cast<int32_t>(v);
}
inline float float_of(int64_t v) {
  return std::bit_cast<float>(static_cast<int32_t>(v));
}
// The type of an operand that may be absent.
inline int64_t key_of(const Tensor& t) {
  return t.defined() ? static_cast<int64_t>(t.dtype) : -1;
}

// Abi<Args>: function; key(args); pack(call, args) in the documented order; expressible(args): refuses what the
// function's arguments cannot say.
template <class Args>
struct Abi;

// rms_norm(out, x, weight, eps), and with a delta add_rms_norm(out, x, delta, weight, eps), which adds it to x first.
template <>
struct Abi<RmsNormArgs> {
  static constexpr const char* function = "rms_norm";
  static Verdict expressible(const RmsNormArgs& a) {
    if (a.round_before_weight && a.out.dtype != DType::kF32)
      return {"this model rounds before the weight; rms_norm does not"};
    return kAccepted;
  }
  static Key key(const RmsNormArgs& a) {
    return {key_of(a.residual), key_of(a.weight), a.residual.dim(1), key_of(a.eps), a.delta.defined()};
  }
  static void pack(Call& call, const RmsNormArgs& a) {
    call.tensor(a.out).tensor(a.residual);
    if (a.delta.defined()) call.tensor(a.delta);
    call.tensor(a.weight).real(static_cast<double>(a.eps));
  }
};

// rotary_pos_emb(x, cos, sin), in place.
template <>
struct Abi<RopeArgs> {
  static constexpr const char* function = "rotary_pos_emb";
  static Verdict expressible(const RopeArgs&) { return kAccepted; }
  static Key key(const RopeArgs& a) { return {key_of(a.x), key_of(a.cos), a.x.dim(1), a.x.dim(2)}; }
  static void pack(Call& call, const RopeArgs& a) { call.tensor(a.x).tensor(a.cos).tensor(a.sin); }
};

// silu_mul(out, gate, up).
template <>
struct Abi<SiluMulArgs> {
  static constexpr const char* function = "silu_mul";
  static Verdict expressible(const SiluMulArgs&) { return kAccepted; }
  static Key key(const SiluMulArgs& a) { return {key_of(a.out), a.out.dim(1)}; }
  static void pack(Call& call, const SiluMulArgs& a) { call.tensor(a.out).tensor(a.gate).tensor(a.up); }
};

// paged_attention(out, q, k_cache, v_cache, page_table, query_start, context, sinks, window, scale, max_queries,
// max_context).
template <>
struct Abi<AttentionArgs> {
  static constexpr const char* function = "paged_attention";
  static Verdict expressible(const AttentionArgs&) { return kAccepted; }
  static Key key(const AttentionArgs& a) {
    return {key_of(a.q), key_of(a.cache.k),   key_of(a.sinks), a.q.dim(1),     a.cache.k.dim(1),
            a.q.dim(2),  a.cache.page_size(), a.window,        key_of(a.scale)};
  }
  static void pack(Call& call, const AttentionArgs& a) {
    call.tensor(a.out).tensor(a.q).tensor(a.cache.k).tensor(a.cache.v).tensor(a.page_table).tensor(a.query_start);
    call.tensor(a.context).tensor(a.sinks).integer(a.window).real(static_cast<double>(a.scale));
    call.integer(a.max_queries).integer(a.max_context);
  }
};

// moe_mlp(out, x, indices, weights, gate_up, gate_up_scales, gate_up_bias, down, down_scales, down_bias, activation,
// limit), and moe_mlp_part, which has first_expert too.
template <>
struct Abi<MoeArgs> {
  static constexpr const char* function = "moe_mlp";
  static Verdict expressible(const MoeArgs& a) {
    for (const Weight* w : {&a.gate_up, &a.down})
      if (w->values.shape.rank() < 3) return {"the experts' weights are not [E, N, ...]"};
    return kAccepted;
  }
  static Key key(const MoeArgs& a) {
    return {key_of(a.x),
            key_of(a.gate_up_bias),
            key_of(a.down_bias),
            static_cast<int64_t>(a.gate_up.format),
            static_cast<int64_t>(a.gate_up.values.dtype),
            static_cast<int64_t>(a.down.format),
            a.gate_up.experts,
            a.indices.dim(1),
            a.gate_up.k,
            a.down.k,
            static_cast<int64_t>(a.activation),
            key_of(a.limit),
            a.part};
  }
  static void pack(Call& call, const MoeArgs& a) {
    call.tensor(a.out).tensor(a.x).tensor(a.indices).tensor(a.weights);
    call.tensor(a.gate_up.values).tensor(a.gate_up.scales).tensor(a.gate_up_bias);
    call.tensor(a.down.values).tensor(a.down.scales).tensor(a.down_bias);
    call.integer(static_cast<int64_t>(a.activation)).real(static_cast<double>(a.limit));
    if (a.part) call.integer(a.first_expert);
  }
};

}  // namespace tessera::hub_kernels
