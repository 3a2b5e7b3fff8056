#include "cache/prefix_tree.h"

#include <algorithm>
#include <bit>

#include "core/error.h"

namespace tessera {

PrefixTree::PrefixTree(int groups, int64_t page_size, int32_t pages, uint64_t hash_mask)
    : groups_(groups), page_size_(page_size), hash_mask_(hash_mask) {
  buckets_.assign(std::bit_ceil(static_cast<size_t>(std::max(pages, 16))), kNone);
  nodes_.push_back({.pins = 1});
  tokens_.resize(static_cast<size_t>(page_size));
  pages_.assign(static_cast<size_t>(groups), kNone);
}

// Multiply and fold, token by token. Strength does not matter: a match is compared in full.
uint64_t PrefixTree::hash(int32_t parent, std::span<const int32_t> tokens) const {
  uint64_t h = 0x9e3779b97f4a7c15u ^ static_cast<uint64_t>(parent);
  for (int32_t t : tokens) {
    h = (h ^ static_cast<uint32_t>(t)) * 0xff51afd7ed558ccdu;
    h ^= h >> 32;
  }
  return h & hash_mask_;
}

int32_t PrefixTree::find(uint64_t h, int32_t parent, std::span<const int32_t> tokens) const {
  for (int32_t n = buckets_[h & (buckets_.size() - 1)]; n != kNone; n = nodes_[static_cast<size_t>(n)].chain) {
    const Node& node = nodes_[static_cast<size_t>(n)];
    if (node.hash == h && node.parent == parent &&
        std::equal(tokens.begin(), tokens.end(), tokens_.begin() + static_cast<long>(n * page_size_)))
      return n;
  }
  return kNone;
}

int32_t PrefixTree::find(int32_t parent, std::span<const int32_t> tokens) const {
  return find(hash(parent, tokens), parent, tokens);
}

int32_t PrefixTree::find_or_add(int32_t parent, std::span<const int32_t> tokens) {
  TS_DCHECK(static_cast<int64_t>(tokens.size()) == page_size_);
  const uint64_t h = hash(parent, tokens);
  int32_t n = find(h, parent, tokens);
  if (n != kNone) return n;
  if (free_.empty()) {
    n = static_cast<int32_t>(nodes_.size());
    nodes_.emplace_back();
    tokens_.resize(tokens_.size() + static_cast<size_t>(page_size_));
    pages_.resize(pages_.size() + static_cast<size_t>(groups_), kNone);
  } else {
    n = free_.back();
    free_.pop_back();
  }
  std::copy(tokens.begin(), tokens.end(), tokens_.begin() + static_cast<long>(n * page_size_));
  Node& above = nodes_[static_cast<size_t>(parent)];
  nodes_[static_cast<size_t>(n)] = {.hash = h, .parent = parent, .next = above.child, .chain = bucket(h)};
  if (above.child != kNone) nodes_[static_cast<size_t>(above.child)].previous = n;
  above.child = n;
  bucket(h) = n;
  return n;
}

void PrefixTree::set_page(int32_t node, int group, int32_t page) {
  int32_t& slot = pages_[static_cast<size_t>(node * groups_ + group)];
  nodes_[static_cast<size_t>(node)].pages += (page != kNone) - (slot != kNone);
  slot = page;
}

void PrefixTree::prune(int32_t node) {
  while (node != kRoot) {
    const Node& n = nodes_[static_cast<size_t>(node)];
    if (n.parent == kNone || n.pins > 0 || n.pages > 0 || n.child != kNone) return;  // no parent: gone already
    int32_t above = n.parent;
    remove(node);
    node = above;
  }
}

void PrefixTree::remove(int32_t node) {
  const Node n = nodes_[static_cast<size_t>(node)];
  if (n.previous != kNone) {
    nodes_[static_cast<size_t>(n.previous)].next = n.next;
  } else {
    nodes_[static_cast<size_t>(n.parent)].child = n.next;
  }
  if (n.next != kNone) nodes_[static_cast<size_t>(n.next)].previous = n.previous;
  int32_t* link = &bucket(n.hash);
  while (*link != node) link = &nodes_[static_cast<size_t>(*link)].chain;
  *link = n.chain;
  nodes_[static_cast<size_t>(node)] = {};
  free_.push_back(node);
}

std::span<const int32_t> PrefixTree::subtree(int32_t node) {
  walk_.assign(1, node);
  for (size_t i = 0; i < walk_.size(); ++i)
    for (int32_t c = nodes_[static_cast<size_t>(walk_[i])].child; c != kNone; c = nodes_[static_cast<size_t>(c)].next)
      walk_.push_back(c);
  return walk_;
}

}  // namespace tessera
