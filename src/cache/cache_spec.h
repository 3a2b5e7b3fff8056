// What a model's layers need of the key/value cache, and how layers share page tables.
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

// Groups in order of first layer. With ignore_window every layer keeps its whole past, in one group.
std::vector<CacheGroup> group_layers(const CacheSpec& spec, bool ignore_window);

// Bytes of keys and values one token takes in one layer.
inline int64_t token_bytes(const LayerCache& layer, int64_t element_size) {
  return 2 * layer.kv_heads * layer.head_dim * element_size;
}

}  // namespace tessera
