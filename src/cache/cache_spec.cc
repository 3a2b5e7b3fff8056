#include "cache/cache_spec.h"

#include <algorithm>

namespace tessera {

namespace {

std::vector<CacheGroup> layers_by_window(const CacheSpec& spec, bool ignore_window) {
  std::vector<CacheGroup> kinds;
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    int64_t window = ignore_window ? 0 : spec.layers[i].window;
    auto it = std::find_if(kinds.begin(), kinds.end(), [&](const CacheGroup& g) { return g.window == window; });
    if (it == kinds.end()) it = kinds.insert(kinds.end(), {window, {}});
    it->layers.push_back(static_cast<int>(i));
  }
  return kinds;
}

bool same_shape(const LayerCache& a, const LayerCache& b) {
  return a.kv_heads == b.kv_heads && a.head_dim == b.head_dim;
}

}  // namespace

int64_t default_page_size(const CacheSpec& spec) {
  int64_t size = 32;
  for (const LayerCache& layer : spec.layers)
    while (layer.window > 0 && size > 1 && 4 * size > layer.window) size /= 2;
  return size;
}

CacheLayout layout_cache(const CacheSpec& spec, bool ignore_window) {
  CacheLayout layout;
  std::vector<CacheGroup> kinds = layers_by_window(spec, ignore_window);
  size_t smallest = spec.layers.size();
  for (const CacheGroup& kind : kinds) smallest = std::min(smallest, kind.layers.size());
  for (const CacheGroup& kind : kinds) {
    const size_t count = kind.layers.size(), parts = (count + smallest / 2) / smallest;
    for (size_t p = 0; p < parts; ++p) {
      auto begin = kind.layers.begin() + static_cast<long>(count * p / parts);
      auto end = kind.layers.begin() + static_cast<long>(count * (p + 1) / parts);
      layout.groups.push_back({kind.window, {begin, end}});
    }
  }
  layout.store_of_layer.resize(spec.layers.size());
  for (const CacheGroup& group : layout.groups) {
    std::vector<char> taken(layout.stores.size(), 0);
    for (int layer : group.layers) {
      const LayerCache& shape = spec.layers[static_cast<size_t>(layer)];
      size_t s = 0;
      while (s < layout.stores.size() && (taken[s] || !same_shape(layout.stores[s], shape))) ++s;
      if (s == layout.stores.size()) {
        layout.stores.push_back(shape);
        taken.push_back(0);
      }
      taken[s] = 1;
      layout.store_of_layer[static_cast<size_t>(layer)] = static_cast<int>(s);
    }
  }
  return layout;
}

int64_t CacheLayout::page_bytes(int64_t page_size, int64_t element_size) const {
  int64_t bytes = 0;
  for (const LayerCache& store : stores) bytes += token_bytes(store, element_size) * page_size;
  return bytes;
}

int64_t CacheLayout::pages_for(int64_t length, int64_t chunk, int64_t page_size) const {
  int64_t pages = 0;
  for (const CacheGroup& group : groups) pages += group_pages(group.window, length, chunk, page_size);
  return pages;
}

int64_t CacheLayout::tokens_for(int64_t pages, int64_t chunk, int64_t page_size) const {
  int64_t low = 0, high = pages * page_size;  // a model of window layers only: no bound but this one is needed
  while (low < high) {
    int64_t middle = (low + high + 1) / 2;
    if (pages_for(middle, chunk, page_size) <= pages) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

}  // namespace tessera
