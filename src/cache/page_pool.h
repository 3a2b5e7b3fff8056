// The pages of one device. A page is free, held by one or more sequences, or cached: held by none, its content kept for
// a later prompt until the page is needed. Pure bookkeeping; a misuse aborts. Used by one thread.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace tessera {

class PagePool {
 public:
  static constexpr int32_t kNone = -1;

  explicit PagePool(int32_t pages);

  std::optional<int32_t> take();        // a free page, with one holder; nullopt: none is free
  void hold(int32_t page);              // one holder more, of a held or a cached page
  void drop(int32_t page, bool cache);  // one less; without the last one the page is free, or cached as the youngest
  void free_cached(int32_t page);
  void touch(int32_t page);  // of a cached page: makes it the youngest

  int32_t oldest() const { return links_.back().next; }  // cached page to evict first, or kNone
  int32_t holders(int32_t page) const { return holders_[static_cast<size_t>(page)]; }

  int32_t capacity() const { return static_cast<int32_t>(holders_.size()); }
  int32_t free() const { return static_cast<int32_t>(free_.size()); }
  int32_t cached() const { return cached_; }
  int32_t held() const { return capacity() - free() - cached_; }
  int32_t peak_held() const { return peak_; }

 private:
  // A ring of the cached pages, oldest first; the last element is its head, named kNone.
  struct Link {
    int32_t previous = kNone, next = kNone;
  };
  void link(int32_t page);
  void unlink(int32_t page);
  Link& at(int32_t page) { return page == kNone ? links_.back() : links_[static_cast<size_t>(page)]; }
  bool is_cached(int32_t page) const { return cached_flag_[static_cast<size_t>(page)] != 0; }

  std::vector<int32_t> free_;
  std::vector<int32_t> holders_;
  std::vector<char> cached_flag_;
  std::vector<Link> links_;
  int32_t cached_ = 0;
  int32_t peak_ = 0;
};

}  // namespace tessera
