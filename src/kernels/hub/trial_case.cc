#include "kernels/hub/trial_case.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "core/error.h"
#include "kernels/checks.h"

namespace tessera::hub_kernels {

namespace {

constexpr int64_t kMostElements = int64_t{1} << 31;

void set(const Tensor& t, int64_t i, float v) {
  if (t.dtype == DType::kBF16) {
    t.as<uint16_t>()[i] = float_to_bf16(v);
  } else if (t.dtype == DType::kF16) {
    t.as<uint16_t>()[i] = float_to_f16(v);
  } else {
    t.f32()[i] = v;
  }
}

// Keys come from another process: types and sizes are checked before anything is made of them.
DType float_type(int64_t key) {
  const auto type = static_cast<DType>(key);
  if (key < 0 || key > 255 || !is_float(type)) fail(ErrorCode::kUnsupported, "type {} is no F32, BF16 or F16", key);
  return type;
}
int64_t size(int64_t key, int64_t most = int64_t{1} << 20) {
  if (key < 1 || key > most) fail(ErrorCode::kUnsupported, "a size of {}; expected 1 to {}", key, most);
  return key;
}

int64_t pick(int size, int64_t few, int64_t some, int64_t more) {
  return size == 0 ? few : size == 1 ? some : more;
}

}  // namespace

double value_of(const Tensor& t, int64_t i) {
  if (t.dtype == DType::kBF16) return static_cast<double>(bf16_to_float(t.as<uint16_t>()[i]));
  if (t.dtype == DType::kF16) return static_cast<double>(f16_to_float(t.as<uint16_t>()[i]));
  return static_cast<double>(t.f32()[i]);
}

Tensor CaseMemory::empty(DType type, Shape shape) {
  Tensor t{nullptr, shape, type, {}};
  if (t.numel() > kMostElements)
    fail(ErrorCode::kUnsupported, "an operand of {} elements is too large to try", t.numel());
  blocks_.push_back(std::make_unique<char[]>(static_cast<size_t>(t.bytes()) + 64));
  t.data = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(blocks_.back().get()) + 63) / 64 * 64);
  return t;
}

Tensor CaseMemory::normal(DType type, Shape shape, float scale) {
  // Drawing billions of normal values takes minutes, so long operands repeat a prime number of them.
  std::vector<float> some(static_cast<size_t>(std::min<int64_t>(shape.numel(), 65537)));
  std::normal_distribution<float> values(0.0f, scale);
  for (float& v : some) v = values(random);
  Tensor t = empty(type, shape);
  for (int64_t i = 0; i < t.numel(); ++i) set(t, i, some[static_cast<size_t>(i) % some.size()]);
  return t;
}

Tensor CaseMemory::ints(Shape shape, const std::vector<int32_t>& values) {
  Tensor t = empty(DType::kI32, shape);
  std::memcpy(t.data, values.data(), values.size() * sizeof(int32_t));
  return t;
}

Tensor CaseMemory::copy(const Tensor& from) {
  if (!from.defined()) return from;
  Tensor t = empty(from.dtype, from.shape);
  std::memcpy(t.data, from.data, static_cast<size_t>(from.bytes()));
  return t;
}

Tensor CaseMemory::optional(int64_t type, Shape shape, float scale) {
  return type < 0 ? Tensor{} : normal(float_type(type), shape, scale);
}

Weight CaseMemory::weight(WeightFormat format, DType type, int64_t experts, int64_t n, int64_t k) {
  Weight w{.format = format, .experts = experts, .n = n, .k = k};
  if (format == WeightFormat::kPlain) {
    w.values = normal(float_type(static_cast<int64_t>(type)), {experts, n, k}, 1.0f / std::sqrt(static_cast<float>(k)));
    return w;
  }
  if ((format != WeightFormat::kMxfp4 && format != WeightFormat::kMxfp4Atoms) || k % 32 != 0)
    fail(ErrorCode::kUnsupported, "weights of this format cannot be tried");
  w.format = WeightFormat::kMxfp4;  // atoms are made from these, on the GPU
  w.max_scale = 124;
  w.values = empty(DType::kU8, {experts, n, k / 32, 16});
  w.scales = empty(DType::kU8, {experts, n, k / 32});
  auto* words = w.values.as<uint32_t>();
  for (int64_t i = 0; i < w.values.numel() / 4; ++i) words[i] = static_cast<uint32_t>(random());
  for (int64_t i = 0; i < w.scales.numel(); ++i) w.scales.as<uint8_t>()[i] = static_cast<uint8_t>(118 + random() % 7);
  return w;
}

template <>
RmsNormArgs make_case(CaseMemory& m, const Key& key, int which) {
  const DType act = float_type(key[0]);
  const int64_t n = size(key[2]), tokens = pick(which, 1, 5, 64);
  return {.residual = m.normal(act, {tokens, n}, 2.0f),
          .delta = key[4] == 0 ? Tensor{} : m.normal(act, {tokens, n}),
          .weight = m.normal(float_type(key[1]), {n}),
          .eps = float_of(key[3]),
          .out = m.empty(act, {tokens, n})};
}

template <>
RopeArgs make_case(CaseMemory& m, const Key& key, int which) {
  const int64_t heads = size(key[2]), d = size(key[3]), tokens = pick(which, 1, 5, 64);
  const DType table = float_type(key[1]);
  RopeArgs a{m.normal(float_type(key[0]), {tokens, heads, d}), m.empty(table, {tokens, d / 2}),
             m.empty(table, {tokens, d / 2})};
  for (int64_t i = 0; i < a.cos.numel(); ++i) {
    const float angle = static_cast<float>(m.random() % 6283) * 1e-3f;
    set(a.cos, i, std::cos(angle)), set(a.sin, i, std::sin(angle));
  }
  return a;
}

template <>
SiluMulArgs make_case(CaseMemory& m, const Key& key, int which) {
  const DType act = float_type(key[0]);
  const Shape shape{pick(which, 1, 5, 64), size(key[1])};
  return {m.normal(act, shape, 3.0f), m.normal(act, shape), m.empty(act, shape)};
}

// Decoding sequences, a prompt, and a prompt that goes on; pages in random order. What lies past a sequence's end or
// before its window is large, so that reading it shows.
template <>
AttentionArgs make_case(CaseMemory& m, const Key& key, int which) {
  const DType act = float_type(key[0]), stored = float_type(key[1]);
  const int64_t heads = size(key[3], 4096), kv = size(key[4], 4096), d = size(key[5], 4096), page = size(key[6], 4096);
  const int64_t window = key[7];
  const auto beyond = static_cast<int32_t>(std::clamp<int64_t>(window + 3, 40, 600));
  const std::vector<int32_t> queries = which == 0   ? std::vector<int32_t>{1}
                                       : which == 1 ? std::vector<int32_t>{1, 1, 1}
                                                    : std::vector<int32_t>{7, 1, 4};
  const std::vector<int32_t> contexts = which == 0   ? std::vector<int32_t>{beyond}
                                        : which == 1 ? std::vector<int32_t>{1, beyond, 17}
                                                     : std::vector<int32_t>{7, 33, beyond};
  const auto sequences = static_cast<int64_t>(queries.size());
  const int64_t longest = *std::max_element(contexts.begin(), contexts.end());
  const int64_t columns = (longest + page - 1) / page, pages = columns * sequences;
  std::vector<int32_t> table(static_cast<size_t>(pages)), starts(1, 0);
  std::iota(table.begin(), table.end(), 0);
  std::shuffle(table.begin(), table.end(), m.random);
  for (int32_t n : queries) starts.push_back(starts.back() + n);
  AttentionArgs a{.q = m.normal(act, {starts.back(), heads, d}),
                  .cache = {m.normal(stored, {pages, kv, page, d}), m.normal(stored, {pages, kv, page, d})},
                  .page_table = m.ints({sequences, columns}, table),
                  .query_start = m.ints({sequences + 1}, starts),
                  .context = m.ints({sequences}, contexts),
                  .sinks = m.optional(key[2], {heads}, 1.0f),
                  .window = window,
                  .scale = float_of(key[8]),
                  .max_queries = *std::max_element(queries.begin(), queries.end()),
                  .max_context = longest,
                  .out = m.empty(act, {starts.back(), heads, d})};
  for (int64_t b = 0; b < sequences; ++b) {
    const auto at = static_cast<size_t>(b);
    for (int64_t token = 0; token < columns * page; ++token) {
      const int64_t first = window > 0 ? contexts[at] - queries[at] - window + 1 : 0;
      if (token >= first && token < contexts[at]) continue;
      const int64_t where = table[static_cast<size_t>(b * columns + token / page)];
      for (int64_t head = 0; head < kv; ++head) {
        const int64_t row = ((where * kv + head) * page + token % page) * d;
        for (int64_t i = 0; i < d; ++i) set(a.cache.k, row + i, 30.0f), set(a.cache.v, row + i, 1000.0f);
      }
    }
  }
  return a;
}

template <>
MoeArgs make_case(CaseMemory& m, const Key& key, int which) {
  constexpr int64_t kExpertsTried = 8;
  const DType act = float_type(key[0]);
  const int64_t experts = std::min(size(key[6], 4096), kExpertsTried), active = std::min(size(key[7], 4096), experts);
  const int64_t hidden = size(key[8], 65536), inner = size(key[9], 65536), tokens = pick(which, 1, 2, 3);
  std::vector<int32_t> order(static_cast<size_t>(experts)), chosen;
  std::iota(order.begin(), order.end(), 0);
  // Of a part of the model's experts: as many more lie before and behind, and what is no token has -1.
  const bool part = key[12] != 0;
  if (part) {
    order.resize(static_cast<size_t>(2 * experts));
    std::iota(order.begin(), order.end(), 0);
  }
  for (int64_t t = 0; t < tokens; ++t) {
    std::shuffle(order.begin(), order.end(), m.random);
    chosen.insert(chosen.end(), order.begin(), order.begin() + active);
  }
  if (part && tokens > 1) chosen.back() = -1;
  MoeArgs a{
      .x = m.normal(act, {tokens, hidden}),
      .indices = m.ints({tokens, active}, chosen),
      .weights = m.empty(DType::kF32, {tokens, active}),
      .gate_up = m.weight(static_cast<WeightFormat>(key[3]), static_cast<DType>(key[4]), experts, 2 * inner, hidden),
      .gate_up_bias = m.optional(key[1], {experts, 2 * inner}, 0.5f),
      .down = m.weight(static_cast<WeightFormat>(key[5]), static_cast<DType>(key[4]), experts, hidden, inner),
      .down_bias = m.optional(key[2], {experts, hidden}, 0.5f),
      .activation = key[10] == 0 ? MoeActivation::kSwigluOai : MoeActivation::kSilu,
      .limit = float_of(key[11]),
      .first_expert = part ? (experts + 1) / 2 : 0,
      .part = part,
      .out = m.empty(act, {tokens, hidden})};
  for (int64_t i = 0; i < a.weights.numel(); ++i) a.weights.f32()[i] = static_cast<float>(1 + m.random() % 100) / 100;
  return a;
}

}  // namespace tessera::hub_kernels
