// How many pages the cache gets, and how many tokens of context they allow. Pure.
#pragma once

#include <cstdint>

#include "cache/cache_spec.h"

namespace tessera {

struct CacheDemand {
  int64_t page_size = 32;
  int64_t page_bytes = 0;
  int64_t chunk = 512;  // most new tokens of one sequence in a step
  int64_t sequences = 1;
  int64_t max_context = 4096;
  bool fit_context = false;  // a context that nobody asked for is cut to what fits
  int64_t stated_bytes = 0;  // 0: from free_bytes
  int64_t free_bytes = 0;    // what the device has left for it
};

struct CacheBudget {
  int64_t pages = 0;
  int64_t max_context = 0;
};

// All pages of a stated budget; else what is left, and no more than all sequences can use at once. One sequence of
// max_context fits, so that a scheduler which preempts all others can always finish it. Throws kOutOfMemory, saying how
// many tokens would fit and which flag to change.
CacheBudget plan_cache(const CacheLayout& layout, const CacheDemand& demand);

// What of a GPU's memory is kept for recorded steps, and for code that is loaded when it is first used.
int64_t device_reserve(int64_t total_bytes);

}  // namespace tessera
