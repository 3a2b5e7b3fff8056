// PageMover: makes the cache's whole-page copies on the device, and to and from the host pages of sequences that are
// swapped out. Owns the host pages' memory, which is pinned on a GPU. Used by one thread.
#pragma once

#include <span>
#include <vector>

#include "cache/cache_spec.h"
#include "cache/paged_cache.h"
#include "core/device_context.h"
#include "kernels/ops.h"

namespace tessera {

class PageMover {
 public:
  // `stores` are the layout's, [pages, K, P, D] each. Throws kOutOfMemory. The context must outlive this object.
  PageMover(DeviceContext& context, const CacheLayout& layout, std::span<const KvPages> stores, int64_t host_pages);
  ~PageMover();
  PageMover(const PageMover&) = delete;

  // In stream order, one after another.
  void make(std::span<const PageCopy> copies);

  int64_t host_bytes() const { return host_bytes_; }

 private:
  // One store's keys or values: a page of it on the device, and where it lies in a host page.
  struct Slice {
    Tensor pages;
    int64_t host_offset = 0;
  };

  DeviceContext& context_;
  std::vector<std::vector<Slice>> slices_;  // by group
  int64_t host_page_bytes_ = 0;
  int64_t host_bytes_ = 0;
  char* host_ = nullptr;
};

}  // namespace tessera
