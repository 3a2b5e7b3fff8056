#include "cache/pages.h"

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace tessera {

PagePool::PagePool(int32_t pages) : held_(static_cast<size_t>(pages), 0) {
  free_.reserve(static_cast<size_t>(pages));
  for (int32_t i = pages; i-- > 0;) free_.push_back(i);
}

std::optional<int32_t> PagePool::allocate() {
  if (free_.empty()) return std::nullopt;
  int32_t page = free_.back();
  free_.pop_back();
  held_[static_cast<size_t>(page)] = 1;
  peak_ = std::max(peak_, used());
  return page;
}

void PagePool::release(int32_t page) {
  TS_CHECK(page >= 0 && page < capacity() && held_[static_cast<size_t>(page)], "page {} is not held", page);
  held_[static_cast<size_t>(page)] = 0;
  free_.push_back(page);
}

SequencePages::SequencePages(PagePool& pool, int64_t page_size, int64_t window)
    : pool_(&pool), page_size_(page_size), window_(window) {
  TS_CHECK(page_size > 0 && window >= 0);
}

SequencePages::SequencePages(SequencePages&& other) noexcept
    : pool_(other.pool_),
      page_size_(other.page_size_),
      window_(other.window_),
      table_(std::exchange(other.table_, {})),
      first_held_(std::exchange(other.first_held_, 0)) {}

bool SequencePages::reserve(int64_t length) {
  size_t before = table_.size();
  auto needed = static_cast<size_t>((length + page_size_ - 1) / page_size_);
  while (table_.size() < needed) {
    std::optional<int32_t> page = pool_->allocate();
    if (!page) {
      while (table_.size() > before) {
        pool_->release(table_.back());
        table_.pop_back();
      }
      return false;
    }
    table_.push_back(*page);
  }
  return true;
}

void SequencePages::commit(int64_t length) {
  if (window_ == 0) return;
  // The query at position `length` sees keys from length - W + 1 on.
  int64_t first_visible = std::max<int64_t>(0, length - window_ + 1);
  int64_t first_needed = std::min<int64_t>(first_visible / page_size_, static_cast<int64_t>(table_.size()));
  for (; first_held_ < first_needed; ++first_held_) {
    pool_->release(std::exchange(table_[static_cast<size_t>(first_held_)], kReleased));
  }
}

void SequencePages::clear() {
  for (size_t i = static_cast<size_t>(first_held_); i < table_.size(); ++i) pool_->release(table_[i]);
  table_.clear();
  first_held_ = 0;
}

}  // namespace tessera
