#include "cache/page_pool.h"

#include <algorithm>

#include "core/error.h"

namespace tessera {

PagePool::PagePool(int32_t pages)
    : holders_(static_cast<size_t>(pages), 0),
      cached_flag_(static_cast<size_t>(pages), 0),
      links_(static_cast<size_t>(pages) + 1) {
  free_.reserve(static_cast<size_t>(pages));
  for (int32_t i = pages; i-- > 0;) free_.push_back(i);
}

std::optional<int32_t> PagePool::take() {
  if (free_.empty()) return std::nullopt;
  int32_t page = free_.back();
  free_.pop_back();
  holders_[static_cast<size_t>(page)] = 1;
  peak_ = std::max(peak_, held());
  return page;
}

void PagePool::hold(int32_t page) {
  TS_CHECK(page >= 0 && page < capacity() && (holders(page) > 0 || is_cached(page)), "page {} holds nothing", page);
  if (is_cached(page)) unlink(page);
  ++holders_[static_cast<size_t>(page)];
  peak_ = std::max(peak_, held());
}

void PagePool::drop(int32_t page, bool cache) {
  TS_CHECK(page >= 0 && page < capacity() && holders(page) > 0, "page {} is not held", page);
  if (--holders_[static_cast<size_t>(page)] > 0) return;
  if (cache) {
    link(page);
  } else {
    free_.push_back(page);
  }
}

void PagePool::free_cached(int32_t page) {
  TS_CHECK(page >= 0 && page < capacity() && is_cached(page), "page {} is not cached", page);
  unlink(page);
  free_.push_back(page);
}

void PagePool::touch(int32_t page) {
  TS_CHECK(page >= 0 && page < capacity() && is_cached(page), "page {} is not cached", page);
  unlink(page);
  link(page);
}

void PagePool::link(int32_t page) {
  Link& ring = links_.back();
  at(page) = {ring.previous, kNone};
  at(ring.previous).next = page;
  ring.previous = page;
  cached_flag_[static_cast<size_t>(page)] = 1;
  ++cached_;
}

void PagePool::unlink(int32_t page) {
  const Link old = at(page);
  at(old.previous).next = old.next;
  at(old.next).previous = old.previous;
  cached_flag_[static_cast<size_t>(page)] = 0;
  --cached_;
}

}  // namespace tessera
