// Host accounting of the paged cache: which page holds which tokens of which sequence. Pure bookkeeping, no cache
// memory. Not thread-safe; the engine's thread owns it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace tessera {

// The pages of one cache group. A page is in exactly one state: free, or held by one sequence.
class PagePool {
 public:
  explicit PagePool(int32_t pages);

  std::optional<int32_t> allocate();  // nullopt: none free
  void release(int32_t page);         // TS_CHECKs that it was held

  int32_t capacity() const { return static_cast<int32_t>(held_.size()); }
  int32_t used() const { return capacity() - static_cast<int32_t>(free_.size()); }
  int32_t peak() const { return peak_; }

 private:
  std::vector<int32_t> free_;
  std::vector<char> held_;
  int32_t peak_ = 0;
};

// One sequence's pages in one group. Token i lives in page table()[i / P], at offset i % P.
class SequencePages {
 public:
  static constexpr int32_t kReleased = -1;

  // The pool must outlive this object. window 0: nothing is ever released before the end.
  SequencePages(PagePool& pool, int64_t page_size, int64_t window);
  ~SequencePages() { clear(); }
  SequencePages(SequencePages&&) noexcept;
  SequencePages& operator=(SequencePages&&) = delete;
  SequencePages(const SequencePages&) = delete;

  // Makes room for tokens [0, length). False, and nothing changed, when the pool has too few pages.
  [[nodiscard]] bool reserve(int64_t length);
  // Tells that tokens [0, length) are stored and the next query is at position length: pages that neither it nor any
  // later query can see go back to the pool.
  void commit(int64_t length);
  void clear();

  std::span<const int32_t> table() const { return table_; }
  int32_t slot(int64_t position) const {
    return static_cast<int32_t>(table_[static_cast<size_t>(position / page_size_)] * page_size_ + position % page_size_);
  }
  int64_t held() const { return static_cast<int64_t>(table_.size()) - first_held_; }

 private:
  PagePool* pool_;
  int64_t page_size_;
  int64_t window_;
  std::vector<int32_t> table_;
  int64_t first_held_ = 0;  // entries before it are kReleased
};

}  // namespace tessera
