#include "engine/cache_budget.h"

#include <algorithm>

#include "core/error.h"

namespace tessera {

namespace {

constexpr int64_t kLeastContext = 1024;  // less than this is a memory that is too small, not a context to be cut

double mib(int64_t bytes) {
  return static_cast<double>(bytes) / (1 << 20);
}

// As a flag's value.
int64_t whole_mib(int64_t bytes) {
  return (bytes >> 20) + 1;
}

int64_t pages_of_one(const CacheLayout& layout, const CacheDemand& d) {
  return layout.pages_for(d.max_context, std::min(d.chunk, d.max_context), d.page_size);
}

int64_t tokens_of_one(const CacheLayout& layout, const CacheDemand& d, int64_t pages) {
  const int64_t tokens = layout.tokens_for(pages, std::min(d.chunk, d.max_context), d.page_size);
  return std::min(tokens, d.max_context);
}

}  // namespace

int64_t device_reserve(int64_t total_bytes) {
  return std::min(total_bytes / 16, int64_t{1} << 30);
}

CacheBudget plan_cache(const CacheLayout& layout, const CacheDemand& d) {
  const int64_t one = pages_of_one(layout, d);
  if (d.stated_bytes > 0) {
    const int64_t pages = d.stated_bytes / d.page_bytes;
    if (pages < one) {
      fail(
          ErrorCode::kOutOfMemory,
          "a cache of {:.1f} MiB holds {} tokens of one request, and the context is {} tokens; lower --max-context, or "
          "give --cache-memory {}MiB",
          mib(d.stated_bytes), tokens_of_one(layout, d, pages), d.max_context, whole_mib(one * d.page_bytes));
    }
    return {pages, d.max_context};
  }
  const int64_t pages = std::min(one * d.sequences, std::max<int64_t>(d.free_bytes, 0) / d.page_bytes);
  if (pages >= one) return {pages, d.max_context};
  const int64_t tokens = tokens_of_one(layout, d, pages);
  if (d.fit_context && tokens >= kLeastContext) return {pages, tokens};
  fail(ErrorCode::kOutOfMemory,
       "{:.1f} MiB are left for the cache after weights and activations, which holds {} tokens of one request, and the "
       "context is {} tokens; lower --max-context, or take what it needs with --cache-memory {}MiB",
       mib(d.free_bytes), tokens, d.max_context, whole_mib(one * d.page_bytes));
}

}  // namespace tessera
