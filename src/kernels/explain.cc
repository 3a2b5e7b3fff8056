#include "kernels/explain.h"

#include <fmt/format.h>

namespace tessera {

namespace {

std::string shape(const Tensor& t) {
  std::string out = "[";
  for (int i = 0; i < t.shape.rank(); ++i) out += fmt::format("{}{}", i > 0 ? ", " : "", t.shape[i]);
  return out + "]";
}

std::string_view format_name(const Weight& w) {
  switch (w.format) {
    case WeightFormat::kPlain:
      return dtype_name(w.values.dtype);
    case WeightFormat::kMxfp4:
      return "MXFP4";
    case WeightFormat::kMxfp4Atoms:
      return "MXFP4 atoms";
    case WeightFormat::kFp8Rows:
      return "FP8 rows";
  }
  return "?";
}

std::string matrix(const Weight& w) {
  if (w.experts == 1) return fmt::format("[{}, {}] {}", w.n, w.k, format_name(w));
  return fmt::format("[{}, {}, {}] {}", w.experts, w.n, w.k, format_name(w));
}

std::string act(const Tensor& t) {
  return fmt::format("{} {}", shape(t), dtype_name(t.dtype));
}

}  // namespace

std::string problem_of(const EmbedArgs& a) {
  return act(a.out);
}
std::string problem_of(const RmsNormArgs& a) {
  return act(a.residual);
}
std::string problem_of(const AddArgs& a) {
  return act(a.x);
}
std::string problem_of(const LinearArgs& a) {
  return fmt::format("{} x {}{} -> {}", shape(a.x), matrix(a.w), a.bias.defined() ? " + bias" : "",
                     dtype_name(a.out.dtype));
}
std::string problem_of(const RopeTableArgs& a) {
  return act(a.cos);
}
std::string problem_of(const RopeArgs& a) {
  return act(a.x);
}
std::string problem_of(const KvWriteArgs& a) {
  return fmt::format("{} into pages of {}", act(a.k), a.cache.page_size());
}
std::string problem_of(const RopeKvArgs& a) {
  return fmt::format("{}{} into pages of {}", act(a.q), a.packed.defined() ? " of packed q, k, v" : "",
                     a.cache.page_size());
}
std::string problem_of(const AttentionArgs& a) {
  return fmt::format("{} of {} sequences, {} keys at most{}, {}", act(a.q), a.context.dim(0), a.max_context,
                     a.cache.k.dtype == a.q.dtype ? "" : fmt::format(" in {}", dtype_name(a.cache.k.dtype)),
                     a.window > 0 ? fmt::format("window {}", a.window) : "no window");
}
std::string problem_of(const RopeAttentionArgs& a) {
  return fmt::format("{}, then {}", problem_of(a.rope), problem_of(a.attention));
}
std::string problem_of(const RouterArgs& a) {
  return fmt::format("{} of {}", a.indices.dim(1), act(a.logits));
}
std::string problem_of(const MoeArgs& a) {
  return fmt::format("{} x {}, {}, {} experts a token", act(a.x), matrix(a.gate_up), matrix(a.down), a.indices.dim(1));
}
std::string problem_of(const MoeAddArgs& a) {
  return problem_of(a.moe);
}
std::string problem_of(const SiluMulArgs& a) {
  return act(a.gate);
}
std::string problem_of(const NormRouterArgs& a) {
  return fmt::format("{} x {}, {} chosen", act(a.residual), matrix(a.router), a.indices.dim(1));
}
std::string problem_of(const AllReduceNormArgs& a) {
  return fmt::format("{} of {} ranks", act(a.norm.residual), a.communicator->size());
}
std::string problem_of(const LinearSendArgs& a) {
  return problem_of(a.linear);
}
std::string problem_of(const MoeSendArgs& a) {
  return problem_of(a.moe);
}
std::string problem_of(const SampleArgs& a) {
  return act(a.logits);
}

std::string problem_of(const SamplePartsArgs& a) {
  return problem_of(a.sample);
}

std::string problem_of(const JoinColumnsArgs& a) {
  return act(a.out);
}

}  // namespace tessera
