#include "layers/gather_logits.h"

#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

namespace tessera {

namespace {

struct Candidate {
  float logit;
  int32_t id;
};

// Each rank's best `count` of each row, gathered [T, R, count], into rows that are -inf elsewhere.
void spread_best(Step& step, const Tensor& own, int64_t first, int64_t count, const Tensor& mine, const Tensor& all,
                 const Tensor& out) {
  const int64_t rows = own.dim(0), width = own.dim(1);
  auto* best = mine.as<Candidate>();
  std::vector<int32_t> order(static_cast<size_t>(width));
  for (int64_t r = 0; r < rows; ++r) {
    const float* logits = own.f32() + r * width;
    std::iota(order.begin(), order.end(), 0);
    const auto kept = order.begin() + static_cast<long>(std::min(count, width));
    auto key = [&](int32_t id) { return std::isnan(logits[id]) ? -INFINITY : logits[id]; };  // as in sampling
    std::partial_sort(order.begin(), kept, order.end(), [&](int32_t a, int32_t b) {
      const float x = key(a), y = key(b);
      return x > y || (x == y && a < b);
    });
    for (int64_t i = 0; i < count; ++i) {
      const bool there = i < width;
      const int32_t at = there ? order[static_cast<size_t>(i)] : 0;
      best[r * count + i] = {there ? logits[at] : 0.0f, there ? static_cast<int32_t>(first) + at : -1};
    }
  }
  step.ranks->world->all_gather(mine, all, step.stream.native);
  std::fill_n(out.f32(), out.numel(), -std::numeric_limits<float>::infinity());
  const auto* gathered = all.as<Candidate>();
  for (int64_t i = 0; i < all.numel() / static_cast<int64_t>(sizeof(Candidate)); ++i)
    if (gathered[i].id >= 0) out.f32()[i / count % rows * out.dim(1) + gathered[i].id] = gathered[i].logit;
}

}  // namespace

Tensor own_logits(Step& step, int64_t rows, int64_t width, int64_t vocab_size) {
  const int64_t room = step.split() ? vocabulary_share(vocab_size, step.ranks->mesh, 0).count : width;
  Tensor logits = step.alloc(DType::kF32, {rows * room});
  logits.shape = {rows, width};
  return logits;
}

void gather_logits(Step& step, const Tensor& own, int64_t vocab_size) {
  const StepRanks& ranks = *step.ranks;
  const int64_t parts = ranks.mesh.ranks(), rows = own.dim(0);
  const int64_t widest = vocabulary_share(vocab_size, ranks.mesh, 0).count;
  // The same room whatever this step asks for: it is measured once.
  step.logits = step.alloc(DType::kF32, {rows, vocab_size});
  step.parts = {own, step.alloc(DType::kF32, {parts, rows * widest})};
  if (own.device.type != DeviceType::kCpu) {
    if (step.measure) join_logits(step);
    return;
  }
  Tensor best = step.alloc(DType::kF32, {rows * widest});
  const int64_t count = std::min(step.candidates, widest / 2);  // a candidate takes two words
  if (count > 0 && !step.measure) {
    const int64_t bytes = rows * count * static_cast<int64_t>(sizeof(Candidate));
    const Tensor& all = step.parts.all;
    spread_best(step, own, vocabulary_share(vocab_size, ranks.mesh, ranks.rank).begin, count,
                {best.data, {bytes}, DType::kU8, best.device}, {all.data, {parts, bytes}, DType::kU8, all.device},
                step.logits);
  } else {
    join_logits(step);
  }
  step.parts = {};
}

void join_logits(Step& step) {
  const StepRanks& ranks = *step.ranks;
  const Tensor &own = step.parts.own, &all = step.parts.all;
  const int64_t rows = own.dim(0), vocab_size = step.logits.dim(1);
  const int64_t widest = vocabulary_share(vocab_size, ranks.mesh, 0).count;
  if (!step.measure) {
    Tensor sent = own;  // with what lies behind a narrower part, which is not read
    sent.shape = {rows * widest};
    ranks.world->all_gather(sent, all, step.stream.native);
  }
  int64_t wide_parts = 0, narrow = widest;
  for (int r = 0; r < ranks.mesh.ranks(); ++r) {
    const int64_t width = vocabulary_share(vocab_size, ranks.mesh, r).count;
    wide_parts += width == widest;
    narrow = std::min(narrow, width);
  }
  step.run(
      step.kernels->join_columns,
      JoinColumnsArgs{.parts = all, .wide = widest, .narrow = narrow, .wide_parts = wide_parts, .out = step.logits});
}

}  // namespace tessera
