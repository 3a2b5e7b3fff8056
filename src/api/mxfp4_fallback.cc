#include "api/mxfp4_fallback.h"

#include "api/memory_forecast.h"
#include "core/error.h"

namespace tessera {

namespace {

constexpr int64_t kBesideWeights = int64_t{1} << 30;  // the least that cache and activations of a big model take

double gib(int64_t bytes) {
  return static_cast<double>(bytes) / (int64_t{1} << 30);
}

std::string card_for(int64_t bytes) {
  const double size = card_that_holds(bytes + kBesideWeights);
  return size > 0 ? fmt::format("a card of {:g} GB", size) : "several cards";
}

}  // namespace

std::string expand_mxfp4(const Mxfp4Fallback& f) {
  const std::string found = fmt::format("MXFP4 experts need a GPU of compute capability 7.5, and {} has {}.{} ({})",
                                        f.device, f.capability / 10, f.capability % 10, f.refusal);
  const std::string memory =
      fmt::format("{:.2f} GiB as bf16 instead of {:.2f} GiB", gib(f.bf16_bytes), gib(f.mxfp4_bytes));
  const std::string others =
      fmt::format("{} of 7.5 or more holds them as they are, {} holds them as bf16; --device cpu needs neither",
                  card_for(f.mxfp4_bytes), card_for(f.bf16_bytes));
  if (!f.allowed)
    fail(ErrorCode::kUnsupported, "{}; --no-fallback keeps them from being expanded ({}); {}", found, memory, others);
  if (f.bf16_bytes + kBesideWeights > f.free_bytes) {
    fail(ErrorCode::kOutOfMemory, "{}; they take {}, and {:.2f} GiB are free; {}", found, memory, gib(f.free_bytes),
         others);
  }
  return fmt::format("{}: they are expanded, {}", found, memory);
}

std::string mxfp4_refusal(const WeightPlan& plan, const ArrangeOptions& options, const Kernels& kernels,
                          Device device) {
  const Weight* gate_up = nullptr;
  for (const WeightRow& row : plan.rows()) {
    if (!row.weight || row.weight->format != WeightFormat::kMxfp4) continue;
    if (gate_up == nullptr || gate_up->k != row.weight->n || gate_up->n != 2 * row.weight->k) {
      gate_up = row.weight;  // of a layer; its down follows
      continue;
    }
    Arena arena = Arena::measuring(device);
    float* scales = nullptr;
    std::vector<UploadPiece> pieces;
    auto held = [&](const Weight& w) { return cuda_arrange(w, options, arena, scales, pieces); };
    MoeArgs args;
    args.x = arena.tensor(options.activations, {1, gate_up->k});
    args.out = arena.tensor(options.activations, {1, gate_up->k});
    args.indices = arena.tensor(DType::kI32, {1, 1});
    args.weights = arena.tensor(DType::kF32, {1, 1});
    args.gate_up = held(*gate_up);
    args.down = held(*row.weight);
    if (kernels.moe.choose(args) != nullptr) return "";
    for (const KernelRow<MoeArgs>& candidate : kernels.moe.rows)
      if (candidate.device == DeviceType::kCuda && candidate.supports(args))
        return kernels.moe.judge(candidate, args).refusal;
    return "no kernel takes their shapes";
  }
  return "";
}

}  // namespace tessera
