// What a model's layers need of the key/value cache, and how layers share page tables and memory. Pure.
#pragma once

#include <cstdint>
#include <vector>

namespace tessera {

struct LayerCache {
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t window = 0;  // W keys visible, the token itself included; 0: all
};

struct CacheSpec {
  std::vector<LayerCache> layers;
};

// Layers with the same window: they hold the same positions, so one page table serves them all.
struct CacheGroup {
  int64_t window = 0;
  std::vector<int> layers;
};

// Groups of about equal size, so that one pool serves all: a page is one slice of every store, and whichever group
// takes it keeps its layers' keys and values there. A kind of layer that is much more frequent than the rarest one is
// split.
struct CacheLayout {
  std::vector<CacheGroup> groups;  // in order of first layer
  std::vector<LayerCache> stores;  // shape of each store; window unused
  std::vector<int> store_of_layer;

  // Bytes of one page in all stores.
  int64_t page_bytes(int64_t page_size, int64_t element_size) const;
  // Most pages one sequence of `length` tokens holds during a step of `chunk` new tokens.
  int64_t pages_for(int64_t length, int64_t chunk, int64_t page_size) const;
  // Longest sequence that `pages` pages hold with steps of `chunk` tokens.
  int64_t tokens_for(int64_t pages, int64_t chunk, int64_t page_size) const;
};

// Tokens in a page unless stated: 32, and less where a window is short, so that the slots of its pages that hold
// nothing visible stay under half a window (a page before and one behind the visible keys are partly used).
int64_t default_page_size(const CacheSpec& spec);

// With ignore_window every layer keeps its whole past, in one group.
CacheLayout layout_cache(const CacheSpec& spec, bool ignore_window);

// Bytes of keys and values one token takes in one layer.
inline int64_t token_bytes(const LayerCache& layer, int64_t element_size) {
  return 2 * layer.kv_heads * layer.head_dim * element_size;
}

// Most pages a sequence holds in a group: all of its tokens', or what a step of `chunk` new tokens sees of them.
inline int64_t group_pages(int64_t window, int64_t length, int64_t chunk, int64_t page_size) {
  const int64_t all = (length + page_size - 1) / page_size;
  if (window == 0) return all;
  const int64_t seen = (window + chunk - 2 + page_size - 1) / page_size + 1;
  return seen < all ? seen : all;
}

}  // namespace tessera
