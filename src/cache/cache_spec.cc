#include "cache/cache_spec.h"

#include <algorithm>

namespace tessera {

std::vector<CacheGroup> group_layers(const CacheSpec& spec, bool ignore_window) {
  std::vector<CacheGroup> groups;
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    int64_t window = ignore_window ? 0 : spec.layers[i].window;
    auto it = std::find_if(groups.begin(), groups.end(), [&](const CacheGroup& g) { return g.window == window; });
    if (it == groups.end()) it = groups.insert(groups.end(), {window, {}});
    it->layers.push_back(static_cast<int>(i));
  }
  return groups;
}

}  // namespace tessera
