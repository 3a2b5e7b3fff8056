// Swapping: a sequence's pages to host memory and back. See paged_cache.h.
#include <utility>

#include "cache/paged_cache.h"
#include "core/error.h"

namespace tessera {

// The copies come before the step's own, so the pages may be written by the step that is being planned.
bool PagedCache::swap_out(CacheSequence& s) {
  TS_CHECK(!s.swapped_out_);
  trim(s);
  int64_t needed = 0;
  for (size_t g = 0; g < groups(); ++g) needed += s.held(g);
  if (s.length_ == 0 || needed > host_pool_.free()) return false;
  std::vector<CacheSequence::Group> host = s.groups_;
  for (size_t g = 0; g < groups(); ++g) {
    for (auto i = static_cast<size_t>(host[g].first_held); i < host[g].pages.size(); ++i) {
      const int32_t to = *host_pool_.take();
      copies_.push_back({static_cast<int>(g), std::exchange(host[g].pages[i], to), to, PageCopy::Way::kToHost});
      ++counters_.swapped_out_pages;
    }
  }
  give_back(s);
  s.groups_ = std::move(host);
  s.swapped_out_ = true;
  return true;
}

// The sequence's node stayed pinned, so its path says which of its full pages the tree still names. A page that is
// copied back is named there again: all that hold a node's pages hold the same ones.
bool PagedCache::swap_in(CacheSequence& s) {
  TS_CHECK(s.swapped_out_);
  std::vector<int32_t> path(options_.prefix_cache ? static_cast<size_t>(s.length_ / options_.page_size) : 0);
  int32_t node = s.node_;
  for (size_t i = path.size(); i-- > 0; node = tree_.parent(node)) path[i] = node;
  auto known = [&](size_t g, size_t i) {
    return i < path.size() ? tree_.page(path[i], static_cast<int>(g)) : PrefixTree::kNone;
  };
  std::vector<CacheSequence::Group> device = s.groups_;
  int64_t needed = 0;
  for (size_t g = 0; g < groups(); ++g) {
    for (auto i = static_cast<size_t>(device[g].first_held); i < device[g].pages.size(); ++i) {
      device[g].pages[i] = known(g, i);
      needed += device[g].pages[i] == PrefixTree::kNone || pool_.holders(device[g].pages[i]) == 0;
    }
  }
  if (needed > available()) return false;
  for (size_t g = 0; g < groups(); ++g)  // before any is taken: taking evicts
    for (auto i = static_cast<size_t>(device[g].first_held); i < device[g].pages.size(); ++i)
      if (device[g].pages[i] != PrefixTree::kNone) hold(device[g].pages[i]);
  for (size_t g = 0; g < groups(); ++g) {
    for (auto i = static_cast<size_t>(device[g].first_held); i < device[g].pages.size(); ++i) {
      int32_t& page = device[g].pages[i];
      if (page != PrefixTree::kNone) continue;
      page = take(g);
      copies_.push_back({static_cast<int>(g), s.groups_[g].pages[i], page, PageCopy::Way::kToDevice});
      ++counters_.swapped_in_pages;
      if (i >= path.size()) continue;
      tree_.set_page(path[i], static_cast<int>(g), page);
      Page& p = pages_[static_cast<size_t>(page)];
      p.node = path[i];
      p.keep = options_.windows[g] == 0 || in_checkpoint(s, g, static_cast<int64_t>(i));
    }
  }
  free_host_pages(s);
  s.groups_ = std::move(device);
  s.swapped_out_ = false;
  return true;
}

void PagedCache::free_host_pages(CacheSequence& s) {
  for (CacheSequence::Group& group : s.groups_)
    for (auto i = static_cast<size_t>(group.first_held); i < group.pages.size(); ++i)
      host_pool_.drop(group.pages[i], /*cache=*/false);
}

}  // namespace tessera
