// Reference causal attention over the paged cache: all scores of one query and head, then softmax, then the values.
#include "kernels/reference/rows.h"
#include "kernels/reference/values.h"

namespace tessera::reference {

namespace {

Verdict supports(const AttentionArgs& a) {
  if (Verdict v = require_cpu_cache(a.cache); !v) return v;
  return require_cpu_floats({&a.q, &a.sinks, &a.out});
}

int64_t workspace(const AttentionArgs& a) {
  return a.max_context * static_cast<int64_t>(sizeof(float));
}

// Index of the first element of (position, kv head) in the cache tensors.
int64_t cache_index(const AttentionArgs& a, int64_t b, int64_t position, int64_t head) {
  int64_t page_size = a.cache.page_size();
  int64_t page = a.page_table.i32()[b * a.page_table.dim(1) + position / page_size];
  return ((page * a.cache.k.dim(1) + head) * page_size + position % page_size) * a.cache.k.dim(3);
}

// One query row (token t of sequence b, at `position`) and one head.
void attend(const AttentionArgs& a, int64_t b, int64_t t, int64_t position, int64_t head, float* scores) {
  int64_t heads = a.q.dim(1), d = a.q.dim(2), kv_head = head / (heads / a.cache.k.dim(1));
  int64_t first = a.window > 0 && position >= a.window ? position - a.window + 1 : 0;
  const int64_t row = (t * heads + head) * d;
  float largest = a.sinks.defined() ? get(a.sinks, head) : -std::numeric_limits<float>::infinity();
  for (int64_t p = first; p <= position; ++p) {
    int64_t key = cache_index(a, b, p, kv_head);
    double dot = 0;
    for (int64_t i = 0; i < d; ++i) dot += static_cast<double>(get(a.q, row + i)) * get(a.cache.k, key + i);
    scores[p - first] = static_cast<float>(dot) * a.scale;
    largest = std::max(largest, scores[p - first]);
  }
  double sum = a.sinks.defined() ? std::exp(get(a.sinks, head) - largest) : 0.0f;
  for (int64_t p = first; p <= position; ++p) sum += scores[p - first] = std::exp(scores[p - first] - largest);
  for (int64_t i = 0; i < d; ++i) {
    double out = 0;
    for (int64_t p = first; p <= position; ++p)
      out += static_cast<double>(scores[p - first]) * get(a.cache.v, cache_index(a, b, p, kv_head) + i);
    put(a.out, row + i, static_cast<float>(out / sum));
  }
}

void launch(const AttentionArgs& a, Stream& stream) {
  for (int64_t b = 0; b < a.context.dim(0); ++b) {
    int64_t begin = a.query_start.i32()[b], end = a.query_start.i32()[b + 1];
    for (int64_t t = begin; t < end; ++t)
      for (int64_t head = 0; head < a.q.dim(1); ++head)
        attend(a, b, t, a.context.i32()[b] - end + t, head, static_cast<float*>(stream.workspace));
  }
}

}  // namespace

KernelRow<AttentionArgs> attention_row() {
  return {"attention_any_ref",
          DeviceType::kCpu,
          "plain loops, any float types and head sizes",
          supports,
          workspace,
          launch};
}

}  // namespace tessera::reference
