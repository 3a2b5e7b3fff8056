// The fused ops' definition: the ops they fuse, one after another.
#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/reference/rows.h"
#include "kernels/reference/values.h"

namespace tessera::reference {

namespace {

// A tensor that lives as long as this object.
struct Owned {
  Owned(DType type, Shape shape) : bytes(static_cast<size_t>(shape.numel() * dtype_size(type))) {
    tensor = {bytes.data(), shape, type, Device{}};
  }
  std::vector<char> bytes;
  Tensor tensor;
};

Verdict supports_rope_kv(const RopeKvArgs& a) {
  if (a.packed.defined()) return require_cpu_floats({&a.q, &a.packed, &a.cos, &a.sin, &a.cache.k, &a.cache.v});
  return require_cpu_floats({&a.q, &a.k, &a.v, &a.cos, &a.sin, &a.cache.k, &a.cache.v});
}

void copy_heads(const Tensor& packed, int64_t first, const Tensor& to) {
  const int64_t d = to.dim(2), bytes = to.dim(1) * d * dtype_size(to.dtype);
  for (int64_t t = 0; t < to.dim(0); ++t)
    std::memcpy(to.as<char>() + t * bytes, packed.as<char>() + (t * packed.dim(1) + first) * d * dtype_size(to.dtype),
                static_cast<size_t>(bytes));
}

void rotate_and_write(const RopeKvArgs& a, Stream& stream) {
  if (a.packed.defined()) {
    const int64_t heads = a.q.dim(1), kv_heads = a.cache.k.dim(1);
    const Shape shape{a.q.dim(0), kv_heads, a.q.dim(2)};
    Owned k(a.q.dtype, shape), v(a.q.dtype, shape);
    copy_heads(a.packed, 0, a.q);
    copy_heads(a.packed, heads, k.tensor);
    copy_heads(a.packed, heads + kv_heads, v.tensor);
    return rotate_and_write({a.q, k.tensor, v.tensor, a.cos, a.sin, a.slots, a.cache, {}}, stream);
  }
  rope_row().launch({.x = a.q, .cos = a.cos, .sin = a.sin}, stream);
  rope_row().launch({.x = a.k, .cos = a.cos, .sin = a.sin}, stream);
  kv_write_row().launch({.k = a.k, .v = a.v, .slots = a.slots, .cache = a.cache}, stream);
}

Verdict supports_rope_attention(const RopeAttentionArgs& a) {
  return require_cpu_floats({&a.rope.q, &a.rope.packed, &a.rope.cos, &a.rope.sin, &a.rope.cache.k, &a.rope.cache.v});
}

void rotate_and_attend(const RopeAttentionArgs& a, Stream& stream) {
  rotate_and_write(a.rope, stream);
  attention_row().launch(a.attention, stream);
}

Verdict supports_norm_router(const NormRouterArgs& a) {
  return require_cpu_floats({&a.residual, &a.norm_weight, &a.router.values});
}

void run_norm_router(const NormRouterArgs& a, Stream& stream) {
  if (a.communicator != nullptr) a.communicator->all_reduce(a.delta, stream.native);
  rms_norm_row().launch({.residual = a.residual,
                         .delta = a.delta,
                         .weight = a.norm_weight,
                         .eps = a.eps,
                         .round_before_weight = a.round_before_weight,
                         .out = a.normed},
                        stream);
  linear_row().launch({.x = a.normed, .w = a.router, .bias = a.router_bias, .out = a.logits}, stream);
  router_row().launch({.logits = a.logits, .mode = a.mode, .indices = a.indices, .weights = a.weights}, stream);
}

Verdict supports_moe_add(const MoeAddArgs& a) {
  return moe_row().supports(a.moe);
}

void run_moe_add(const MoeAddArgs& a, Stream& stream) {
  moe_row().launch(a.moe, stream);
  add_row().launch({.x = a.residual, .delta = a.moe.out}, stream);
}

Verdict supports_all_reduce_norm(const AllReduceNormArgs& a) {
  return rms_norm_row().supports(a.norm);
}

void run_all_reduce_norm(const AllReduceNormArgs& a, Stream& stream) {
  a.communicator->all_reduce(a.norm.delta, stream.native);
  rms_norm_row().launch(a.norm, stream);
}

// Every rank puts its columns into rows of zeros: their sum is the whole rows.
void sample_whole_rows(const SamplePartsArgs& a, Stream& stream) {
  const int64_t rows = a.sample.logits.dim(0), width = a.sample.logits.dim(1);
  Owned whole(DType::kF32, {rows, a.vocab_size});
  for (int64_t r = 0; r < rows; ++r)
    std::copy_n(a.sample.logits.f32() + r * width, width, whole.tensor.f32() + r * a.vocab_size + a.first);
  a.communicator->all_reduce(whole.tensor, stream.native);
  SampleArgs all = a.sample;
  all.logits = whole.tensor;
  sample_row().launch(all, stream);
}

}  // namespace

KernelRow<RopeKvArgs> rope_kv_row() {
  return {"rope_kv_any_ref", DeviceType::kCpu, "the ops one by one", supports_rope_kv, nullptr, rotate_and_write};
}

KernelRow<RopeAttentionArgs> rope_attention_row() {
  return {"rope_attention_any_ref",
          DeviceType::kCpu,
          "the ops one by one",
          supports_rope_attention,
          [](const RopeAttentionArgs& a) {
            const auto workspace = attention_row().workspace;
            return workspace ? workspace(a.attention) : 0;
          },
          rotate_and_attend};
}

KernelRow<NormRouterArgs> norm_router_row() {
  return {"norm_router_any_ref", DeviceType::kCpu, "the ops one by one",
          supports_norm_router,  nullptr,          run_norm_router};
}

KernelRow<MoeAddArgs> moe_add_row() {
  return {"moe_add_any_ref",
          DeviceType::kCpu,
          "the ops one by one",
          supports_moe_add,
          [](const MoeAddArgs& a) {
            const auto workspace = moe_row().workspace;
            return workspace ? workspace(a.moe) : 0;
          },
          run_moe_add};
}

KernelRow<AllReduceNormArgs> all_reduce_norm_row() {
  return {"all_reduce_norm_any_ref", DeviceType::kCpu, "the ops one by one",
          supports_all_reduce_norm,  nullptr,          run_all_reduce_norm};
}

// Nothing is sent: the sum sends what it was not told of, and that is all the reference does.
KernelRow<LinearSendArgs> linear_send_row() {
  return {"linear_send_any_ref",
          DeviceType::kCpu,
          "nothing is sent ahead",
          [](const LinearSendArgs& a) { return linear_row().supports(a.linear); },
          nullptr,
          [](const LinearSendArgs& a, Stream& stream) { linear_row().launch(a.linear, stream); }};
}

KernelRow<MoeSendArgs> moe_send_row() {
  return {"moe_send_any_ref",
          DeviceType::kCpu,
          "nothing is sent ahead",
          [](const MoeSendArgs& a) { return moe_row().supports(a.moe); },
          [](const MoeSendArgs& a) {
            const auto workspace = moe_row().workspace;
            return workspace ? workspace(a.moe) : 0;
          },
          [](const MoeSendArgs& a, Stream& stream) { moe_row().launch(a.moe, stream); }};
}

KernelRow<SamplePartsArgs> sample_parts_row() {
  return {"sample_parts_any_ref",
          DeviceType::kCpu,
          "rows are put together on every rank",
          [](const SamplePartsArgs& a) { return sample_row().supports(a.sample); },
          nullptr,
          sample_whole_rows};
}

}  // namespace tessera::reference
