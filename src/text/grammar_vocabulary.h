// A vocabulary as a tree of bytes, in the order in which a walk meets its nodes. Immutable, thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace tessera {

class LeafMasks;

struct VocabularyIndex {
  static constexpr size_t kMaxTokenBytes = 256;  // longer tokens are never allowed

  VocabularyIndex(std::vector<std::string> tokens, const std::vector<bool>& special);
  ~VocabularyIndex();

  std::string_view bytes(int32_t id) const {
    const auto i = static_cast<size_t>(id);
    return std::string_view(pool).substr(offsets[i], offsets[i + 1] - offsets[i]);
  }
  // The tokens that end at a node.
  std::span<const int32_t> tokens_at(uint32_t node) const {
    return std::span(order).subspan(token_begin[node], token_begin[node + 1] - token_begin[node]);
  }

  int64_t size = 0;  // V
  std::string pool;  // all tokens' bytes; none for those that text never matches
  std::vector<uint32_t> offsets;

  // Node 0 is the root. A node's first child, if it has one, is the next node; end[n] is the node after n's last
  // descendant, so a child's next sibling is end[child].
  std::vector<uint8_t> byte;
  std::vector<uint32_t> end;
  std::vector<uint32_t> token_begin;  // into order; one more than nodes
  std::vector<int32_t> order;         // ids by node

  // Bytes of masks kept for leaves of living grammars; beyond the limit they are computed without being kept.
  static constexpr int64_t kMaxMaskBytes = int64_t{512} << 20;
  const std::shared_ptr<std::atomic<int64_t>> mask_bytes = std::make_shared<std::atomic<int64_t>>(0);

  // Masks of leaves that several grammars have in common, by what the leaf is.
  std::shared_ptr<LeafMasks> shared_leaf(const std::string& key, const std::shared_ptr<LeafMasks>& fresh) const;

 private:
  mutable std::mutex mutex_;
  mutable std::unordered_map<std::string, std::weak_ptr<LeafMasks>> leaves_;
  mutable std::vector<std::shared_ptr<LeafMasks>> kept_;  // the most recent ones
};

}  // namespace tessera
