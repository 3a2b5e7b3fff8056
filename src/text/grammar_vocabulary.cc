#include "text/grammar_vocabulary.h"

#include <algorithm>

#include "text/grammar_leaf.h"

namespace tessera {

namespace {

constexpr size_t kKeptLeaves = 64;

}  // namespace

VocabularyIndex::VocabularyIndex(std::vector<std::string> tokens, const std::vector<bool>& special)
    : size(static_cast<int64_t>(tokens.size())) {
  offsets.reserve(tokens.size() + 1);
  offsets.push_back(0);
  std::vector<int32_t> ids;
  for (size_t id = 0; id < tokens.size(); ++id) {
    const std::string& token = tokens[id];
    if (!token.empty() && token.size() <= kMaxTokenBytes && !(id < special.size() && special[id])) {
      pool += token;
      ids.push_back(static_cast<int32_t>(id));
    }
    offsets.push_back(static_cast<uint32_t>(pool.size()));
  }
  std::sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) {
    const int order_of = bytes(a).compare(bytes(b));
    return order_of != 0 ? order_of < 0 : a < b;
  });
  // Sorted texts are met in the tree's own order; the path holds the nodes of the text before.
  std::vector<uint32_t> path{0};
  byte.push_back(0);
  end.push_back(0);
  token_begin.push_back(0);
  std::string_view before;
  for (int32_t id : ids) {
    const std::string_view text = bytes(id);
    size_t common = 0;
    while (common < before.size() && common < text.size() && before[common] == text[common]) ++common;
    while (path.size() > common + 1) {
      end[path.back()] = static_cast<uint32_t>(byte.size());
      path.pop_back();
    }
    for (size_t i = common; i < text.size(); ++i) {
      path.push_back(static_cast<uint32_t>(byte.size()));
      byte.push_back(static_cast<uint8_t>(text[i]));
      end.push_back(0);
      token_begin.push_back(static_cast<uint32_t>(order.size()));
    }
    order.push_back(id);
    before = text;
  }
  for (uint32_t node : path) end[node] = static_cast<uint32_t>(byte.size());
  token_begin.push_back(static_cast<uint32_t>(order.size()));
}

VocabularyIndex::~VocabularyIndex() = default;

std::shared_ptr<LeafMasks> VocabularyIndex::shared_leaf(const std::string& key,
                                                        const std::shared_ptr<LeafMasks>& fresh) const {
  std::lock_guard lock(mutex_);
  std::weak_ptr<LeafMasks>& slot = leaves_[key];
  std::shared_ptr<LeafMasks> leaf = slot.lock();
  if (!leaf) slot = leaf = fresh;
  auto it = std::find(kept_.begin(), kept_.end(), leaf);
  if (it != kept_.end()) kept_.erase(it);
  kept_.push_back(leaf);
  if (kept_.size() > kKeptLeaves) kept_.erase(kept_.begin());
  if (leaves_.size() > 16 * kKeptLeaves)
    std::erase_if(leaves_, [](const auto& entry) { return entry.second.expired(); });
  return leaf;
}

}  // namespace tessera
