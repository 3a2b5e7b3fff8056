// What is known about stored prefixes. A node is one full page of tokens after its parent's tokens, so a node stands
// for exactly one prefix: children are found by hash and then compared token by token. For each cache group a node
// names the page that holds its tokens, or none (the window has passed, or the page was evicted). Pure; used by one
// thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tessera {

class PrefixTree {
 public:
  static constexpr int32_t kNone = -1;
  static constexpr int32_t kRoot = 0;  // the empty prefix; always there

  // hash_mask: tests force collisions with it.
  PrefixTree(int groups, int64_t page_size, int32_t pages, uint64_t hash_mask = ~uint64_t{0});

  int32_t find(int32_t parent, std::span<const int32_t> tokens) const;  // REQUIRES: a full page of tokens
  int32_t find_or_add(int32_t parent, std::span<const int32_t> tokens);
  int32_t parent(int32_t node) const { return nodes_[static_cast<size_t>(node)].parent; }

  int32_t page(int32_t node, int group) const { return pages_[static_cast<size_t>(node * groups_ + group)]; }
  void set_page(int32_t node, int group, int32_t page);

  // A pinned node stays. Others go, by prune(), as soon as neither they nor a descendant name a page.
  void pin(int32_t node) { ++nodes_[static_cast<size_t>(node)].pins; }
  void unpin(int32_t node) { --nodes_[static_cast<size_t>(node)].pins; }
  void prune(int32_t node);

  // The node and all below it, parents first. Valid until the next call.
  std::span<const int32_t> subtree(int32_t node);

  int64_t size() const { return static_cast<int64_t>(nodes_.size() - free_.size()); }

 private:
  struct Node {
    uint64_t hash = 0;
    int32_t parent = kNone;
    int32_t child = kNone, next = kNone, previous = kNone;  // first child; siblings
    int32_t chain = kNone;                                  // next node of the same bucket
    int32_t pins = 0;
    int32_t pages = 0;
  };
  uint64_t hash(int32_t parent, std::span<const int32_t> tokens) const;
  int32_t find(uint64_t hash, int32_t parent, std::span<const int32_t> tokens) const;
  void remove(int32_t node);
  int32_t& bucket(uint64_t hash) { return buckets_[hash & (buckets_.size() - 1)]; }

  int groups_;
  int64_t page_size_;
  uint64_t hash_mask_;
  std::vector<Node> nodes_;
  std::vector<int32_t> tokens_;  // page_size a node
  std::vector<int32_t> pages_;   // groups a node
  std::vector<int32_t> free_;
  std::vector<int32_t> buckets_;
  std::vector<int32_t> walk_;
};

}  // namespace tessera
