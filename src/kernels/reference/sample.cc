// Reference of the sample op: sorts, then walks.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "kernels/reference/rows.h"
#include "kernels/reference/values.h"
#include "kernels/sample_math.h"

namespace tessera::reference {

namespace {

Verdict supports(const SampleArgs& a) {
  if (a.logits.device.type != DeviceType::kCpu) return {"the tensors are not in CPU memory"};
  if (a.logits.dtype != DType::kF32) return {"logits are not F32"};
  return kAccepted;
}

struct Row {
  float* logits;
  int64_t vocab;
  SampleSettings settings;
};

std::vector<int32_t> by_logit(const float* logits, int64_t vocab) {
  std::vector<int32_t> order(static_cast<size_t>(vocab));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  return order;
}

void edit(const SampleArgs& a, int64_t r, const Row& row) {
  const SampleSettings& s = row.settings;
  for (int64_t i = 0; i < row.vocab; ++i) {
    bool allowed = s.mask < 0 || (a.masks.as<uint32_t>()[s.mask * a.masks.dim(1) + i / 32] >> (i % 32) & 1);
    if (!allowed || std::isnan(row.logits[i])) row.logits[i] = -std::numeric_limits<float>::infinity();
  }
  if (!a.edit_start.defined()) return;
  for (int32_t i = a.edit_start.i32()[r]; i < a.edit_start.i32()[r + 1]; ++i) {
    LogitEdit e;
    std::memcpy(&e, a.edits.as<char>() + i * int64_t{sizeof e}, sizeof e);
    float& l = row.logits[e.token];
    l += e.bias;
    if (e.count >= 0) l = l < 0 ? l * s.repetition_penalty : l / s.repetition_penalty;
    if (e.count > 0) l -= static_cast<float>(s.frequency_penalty * e.count + s.presence_penalty);
  }
}

int32_t choose(const Row& row) {
  const SampleSettings& s = row.settings;
  const int32_t best = static_cast<int32_t>(std::max_element(row.logits, row.logits + row.vocab) - row.logits);
  const float top = row.logits[best];
  if (s.temperature == 0 || !std::isfinite(top)) return best;
  const double unit = std::ldexp(1.0, sample_fraction_bits(row.vocab));
  auto weight = [&](int32_t id) {
    return static_cast<float>(std::exp(static_cast<double>(row.logits[id] - top) / s.temperature));
  };
  auto mass = [&](int32_t id) { return static_cast<uint64_t>(std::llrint(weight(id) * unit)); };
  const bool top_k = s.top_k > 0 && s.top_k < row.vocab, cut = top_k || s.top_p < 1.0;
  std::vector<int32_t> kept;
  if (cut) {
    kept = by_logit(row.logits, row.vocab);
    if (top_k) kept.resize(static_cast<size_t>(s.top_k));
  } else {
    kept.resize(static_cast<size_t>(row.vocab));
    std::iota(kept.begin(), kept.end(), 0);
  }
  uint64_t total = 0;
  for (int32_t id : kept) total += mass(id);
  if (s.top_p < 1.0) {
    const auto wanted = std::min(static_cast<uint64_t>(std::ceil(s.top_p * static_cast<double>(total))), total);
    uint64_t sum = 0;
    size_t n = 0;
    while (n < kept.size() && sum < wanted) sum += mass(kept[n++]);
    kept.resize(std::max<size_t>(n, 1));
    total = std::max(sum, mass(kept[0]));
  }
  if (s.min_p > 0) {
    std::erase_if(kept, [&](int32_t id) { return weight(id) < s.min_p; });
    total = 0;
    for (int32_t id : kept) total += mass(id);
  }
  const uint64_t target = std::min(static_cast<uint64_t>(s.uniform * static_cast<double>(total)), total - 1);
  uint64_t sum = 0;
  for (int32_t id : kept)
    if ((sum += mass(id)) > target) return id;
  return best;
}

void report(const SampleArgs& a, int64_t r, const std::vector<float>& raw, int64_t count, int32_t id) {
  const std::vector<int32_t> order = by_logit(raw.data(), static_cast<int64_t>(raw.size()));
  const float best = raw[static_cast<size_t>(order[0])];
  double sum = 0;
  for (float l : raw) sum += std::exp(static_cast<double>(l - best));
  const double log_sum = std::isfinite(best) ? best + std::log(sum) : 0;  // no distribution: all are -inf
  auto logprob = [&](int32_t i) { return static_cast<float>(raw[static_cast<size_t>(i)] - log_sum); };
  a.logprobs.f32()[r] = logprob(id);
  for (int64_t i = 0; i < std::min(count, a.logits.dim(1)); ++i) {
    a.top_ids.i32()[r * kMaxSampleLogprobs + i] = order[static_cast<size_t>(i)];
    a.top_logprobs.f32()[r * kMaxSampleLogprobs + i] = logprob(order[static_cast<size_t>(i)]);
  }
}

void launch(const SampleArgs& a, Stream&) {
  for (int64_t r = 0; r < a.logits.dim(0); ++r) {
    Row row{a.logits.f32() + r * a.logits.dim(1), a.logits.dim(1), {}};
    std::memcpy(&row.settings, a.settings.as<char>() + r * int64_t{sizeof row.settings}, sizeof row.settings);
    std::vector<float> raw;
    if (row.settings.logprobs >= 0) {
      raw.assign(row.logits, row.logits + row.vocab);
      for (float& l : raw)
        if (std::isnan(l)) l = -std::numeric_limits<float>::infinity();
    }
    edit(a, r, row);
    const int32_t id = choose(row);
    a.ids.i32()[r] = id;
    if (row.settings.logprobs >= 0) report(a, r, raw, row.settings.logprobs, id);
  }
}

}  // namespace

KernelRow<SampleArgs> sample_row() {
  return {"sample_f32_ref", DeviceType::kCpu, "sorts, then walks", supports, nullptr, launch};
}

}  // namespace tessera::reference
