// A model for tests of the engine: its next token is a function of the tokens it reads back from the cache, so a page
// that is wrong, missing or shared too early changes the answer. One layer sees everything, one a window. Ranks compute
// the same and hand out their columns of the logits, as on GPUs.
#pragma once

#include <algorithm>
#include <functional>

#include "layers/gather_logits.h"
#include "models/model.h"
#include "parallel/sharding.h"

namespace tessera {

class ToyModel final : public Model {
 public:
  static constexpr int64_t kVocab = 50;
  static constexpr int64_t kWindow = 24;

  ToyModel() : Model({"Toy", kVocab, 2, 2, 100000}) {}

  // What follows `tokens`: often the token three before, so that prompt lookup has something to find.
  static int32_t next(std::span<const int32_t> tokens) {
    const size_t n = tokens.size(), first = n > kWindow ? n - kWindow : 0;
    uint64_t all = 7, seen = 3;
    for (int32_t t : tokens) all = mix(all, t);
    for (int32_t t : tokens.subspan(first)) seen = mix(seen, t);
    const uint64_t h = all ^ seen * 31;
    return n >= 3 && h % 4 ? tokens[n - 3] : static_cast<int32_t>((h >> 20) % kVocab);
  }
  static std::vector<int32_t> answer(std::vector<int32_t> tokens, int64_t count) {
    const size_t prompt = tokens.size();
    for (int64_t i = 0; i < count; ++i) tokens.push_back(next(tokens));
    return {tokens.begin() + static_cast<long>(prompt), tokens.end()};
  }

  void declare(WeightPlan&) override {}
  CacheSpec cache() const override { return {{{1, 2, 0}, {1, 2, kWindow}}}; }

  void forward(Step& step) const override {
    if (before_step && !step.measure) before_step();
    step.logits = step.alloc(DType::kF32, {step.logit_rows.dim(0), kVocab});
    if (!step.measure) compute(step);
    if (step.ranks != nullptr) hand_out_columns(step);
  }

  std::function<void()> before_step;  // tests throw from here

 private:
  static void compute(Step& step) {
    for (int64_t t = 0; t < step.tokens(); ++t)
      for (const LayerCacheView& layer : step.cache)
        if (layer.slots.i32()[t] >= 0) cell(layer, layer.slots.i32()[t]) = static_cast<float>(step.ids.i32()[t]);
    for (int64_t r = 0; r < step.logit_rows.dim(0); ++r) {
      const int32_t token = step.logit_rows.i32()[r];
      int64_t b = 0;
      while (step.query_start.i32()[b + 1] <= token) ++b;
      if (step.context.i32()[b] == 0) continue;
      const int64_t position = step.positions.i32()[token];
      std::vector<int32_t> tokens;
      for (int64_t p = 0; p <= position; ++p) {
        const int32_t id = read(step.cache[0], b, p);
        // A key in the window must be the same in both layers.
        const bool visible = p > position - kWindow;
        tokens.push_back(visible && read(step.cache[1], b, p) != id ? -1 : id);
      }
      float* row = step.logits.f32() + r * kVocab;
      const int32_t best = next(tokens);
      for (int32_t v = 0; v < kVocab; ++v)
        row[v] = v == best ? 4.0f : static_cast<float>(mix(static_cast<uint64_t>(best), v) % 100) / 50;
    }
  }

  static void hand_out_columns(Step& step) {
    const StepRanks& ranks = *step.ranks;
    const int64_t rows = step.logits.dim(0), widest = vocabulary_share(kVocab, ranks.mesh, 0).count;
    const Range columns = vocabulary_share(kVocab, ranks.mesh, ranks.rank);
    const Tensor own = own_logits(step, rows, columns.count, kVocab);
    step.parts = {own, step.alloc(DType::kF32, {ranks.mesh.ranks(), rows * widest})};
    if (step.measure) return join_logits(step);
    for (int64_t r = 0; r < rows; ++r)
      std::copy_n(step.logits.f32() + r * kVocab + columns.begin, columns.count, own.f32() + r * columns.count);
  }

  static uint64_t mix(uint64_t h, int32_t t) {
    h = (h ^ static_cast<uint64_t>(t + 1)) * 0xff51afd7ed558ccdu;
    return h ^ h >> 33;
  }
  static float& cell(const LayerCacheView& layer, int32_t slot) {
    return layer.pages.k.f32()[static_cast<int64_t>(slot) * 2];
  }
  static int32_t read(const LayerCacheView& layer, int64_t b, int64_t position) {
    const int64_t page_size = layer.pages.page_size();
    const int32_t page = layer.page_table.i32()[b * layer.page_table.dim(1) + position / page_size];
    return static_cast<int32_t>(cell(layer, static_cast<int32_t>(page * page_size + position % page_size)));
  }
};

}  // namespace tessera
