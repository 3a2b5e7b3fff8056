// The paged cache of one device, as accounting: which page holds which tokens of which sequence, in each cache group.
// Full pages are shared by content through a prefix tree; a window group keeps only what a later query can see, plus
// checkpoints that let a later prompt start in the middle. A sequence that must wait may keep its tokens in host
// memory, in a pool of host pages. Pure: touches no cache memory. Used by one thread.
//
// A step: reserve() for each sequence, the copies of take_copies() in order, the kernels, then commit() for each once
// the step is enqueued. Pages freed meanwhile are written by later steps only.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "cache/page_pool.h"
#include "cache/prefix_tree.h"

namespace tessera {

struct CacheOptions {
  std::vector<int64_t> windows;  // one a group; 0: all tokens
  int64_t page_size = 32;
  int32_t pages = 0;
  int32_t host_pages = 0;  // for sequences that are swapped out
  bool prefix_cache = true;
  int64_t checkpoint_tokens = 4096;   // a prompt's window pages are kept at least this often
  uint64_t hash_mask = ~uint64_t{0};  // tests force collisions with it
  int shard = 0;                      // which one, where several devices keep sequences of their own
};

struct CacheCounters {
  int64_t lookups = 0, hits = 0;              // prompts
  int64_t lookup_tokens = 0, hit_tokens = 0;  // prompt tokens, and those not computed again
  int64_t evicted_pages = 0, copied_pages = 0;
  int64_t swapped_out_pages = 0, swapped_in_pages = 0;  // copied to host memory and back

  CacheCounters& operator+=(const CacheCounters& other);
};

// Copy a whole page, in every layer of the group, before the step writes.
struct PageCopy {
  enum class Way : uint8_t { kOnDevice, kToHost, kToDevice };
  int group = 0;
  int32_t from = 0, to = 0;
  Way way = Way::kOnDevice;
};

class PagedCache;

// The pages of one sequence: token i of group g lies in page table(g)[i / P] at offset i % P. Gives them back when
// destroyed. The cache must outlive it. While it is swapped out it has no table, only a length.
class CacheSequence {
 public:
  static constexpr int32_t kReleased = -1;

  ~CacheSequence();
  CacheSequence(const CacheSequence&) = delete;

  int64_t length() const { return length_; }  // tokens stored
  std::span<const int32_t> table(size_t group) const { return groups_[group].pages; }
  int32_t slot(size_t group, int64_t position) const;
  int64_t held(size_t group) const {
    return static_cast<int64_t>(groups_[group].pages.size()) - groups_[group].first_held;
  }
  bool swapped_out() const { return swapped_out_; }  // then held() counts host pages
  PagedCache& cache() const { return *cache_; }

 private:
  friend class PagedCache;
  struct Group {
    std::vector<int32_t> pages;
    int64_t first_held = 0;  // entries before it are kReleased
  };
  explicit CacheSequence(PagedCache* cache) : cache_(cache) {}

  PagedCache* cache_;
  int64_t length_ = 0;
  bool swapped_out_ = false;
  std::vector<Group> groups_;
  std::vector<int32_t> tail_;         // tokens of the last, partial page
  int32_t node_ = PrefixTree::kRoot;  // of the full pages; pinned
  int64_t prompt_length_ = 0;         // its last window is kept
  int64_t branch_pages_ = 0;          // where the prompt left what the tree knew: worth a checkpoint, too
};

class PagedCache {
 public:
  explicit PagedCache(const CacheOptions& options);

  std::unique_ptr<CacheSequence> open();
  // Gives an empty sequence the longest stored prefix of `tokens` that all groups can continue from, and returns its
  // length: whole pages, and at least one token is left to compute. prompt_length: where the caller's prompt ends, if
  // tokens go on with an answer.
  int64_t match(CacheSequence& sequence, std::span<const int32_t> tokens, int64_t prompt_length);
  // What match() would return, without taking anything.
  int64_t probe(std::span<const int32_t> tokens) const;
  // Room for `count` tokens after those stored. False, and nothing changed, when there are too few pages.
  [[nodiscard]] bool reserve(CacheSequence& sequence, int64_t count);
  // The reserved tokens (or the first of them) are stored. Publishes full pages; releases what no later query sees and
  // what was reserved in vain.
  void commit(CacheSequence& sequence, std::span<const int32_t> tokens);
  // A second sequence with the same tokens. Pages are shared until one of both writes.
  std::unique_ptr<CacheSequence> fork(const CacheSequence& sequence);
  // Gives the sequence's pages back and keeps its tokens in host pages; what was reserved ahead is gone. False, and the
  // sequence as it was but for that, when it has no tokens or the host has too little room.
  [[nodiscard]] bool swap_out(CacheSequence& sequence);
  // Back on the device: pages that the prefix tree still has are shared, the others copied. False, and nothing changed,
  // when there are too few pages.
  [[nodiscard]] bool swap_in(CacheSequence& sequence);
  // Copies asked for by reserve() and the swaps since the last call, in the order they must be made.
  std::vector<PageCopy> take_copies() { return std::exchange(copies_, {}); }

  const PagePool& pool() const { return pool_; }
  const PagePool& host_pool() const { return host_pool_; }
  const CacheOptions& options() const { return options_; }
  const CacheCounters& counters() const { return counters_; }
  int32_t available() const { return pool_.free() + pool_.cached(); }  // pages that reserve() can find
  int32_t held(size_t group) const { return held_[group]; }            // pages that sequences hold, each counted once
  int32_t peak_held(size_t group) const { return peak_held_[group]; }
  int64_t tree_size() const { return tree_.size(); }

 private:
  friend class CacheSequence;
  struct Page {
    int32_t node = PrefixTree::kNone;  // where it is published
    int32_t group = 0;
    bool keep = false;  // stays cached when its last holder goes
  };
  struct Match {
    int64_t pages = 0;        // usable
    int64_t known_pages = 0;  // held by the full groups, usable or not
    int32_t node = PrefixTree::kRoot;
  };

  size_t groups() const { return options_.windows.size(); }
  // First page that a query at position `length` or later sees.
  int64_t first_needed(size_t group, int64_t length) const;
  Match find(std::span<const int32_t> tokens) const;
  bool in_checkpoint(const CacheSequence& sequence, size_t group, int64_t index) const;
  int32_t take(size_t group);
  void hold(int32_t page);
  void drop(int32_t page);
  void unpublish(int32_t page);
  void evict();
  void publish(CacheSequence& sequence);
  void trim(CacheSequence& sequence);
  void release_passed(CacheSequence& sequence);
  void give_back(CacheSequence& sequence);
  void free_host_pages(CacheSequence& sequence);
  void close(CacheSequence& sequence);
  void refresh_checkpoint(const CacheSequence& sequence);

  CacheOptions options_;
  PagePool pool_, host_pool_;
  PrefixTree tree_;
  std::vector<Page> pages_;
  std::vector<int32_t> held_, peak_held_;
  std::vector<PageCopy> copies_;
  CacheCounters counters_;
};

}  // namespace tessera
