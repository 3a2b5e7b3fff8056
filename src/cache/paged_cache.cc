#include "cache/paged_cache.h"

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace tessera {

namespace {
constexpr int32_t kNone = PrefixTree::kNone;

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}
}  // namespace

CacheCounters& CacheCounters::operator+=(const CacheCounters& o) {
  lookups += o.lookups, hits += o.hits;
  lookup_tokens += o.lookup_tokens, hit_tokens += o.hit_tokens;
  evicted_pages += o.evicted_pages, copied_pages += o.copied_pages;
  swapped_out_pages += o.swapped_out_pages, swapped_in_pages += o.swapped_in_pages;
  return *this;
}

CacheSequence::~CacheSequence() {
  cache_->close(*this);
}

int32_t CacheSequence::slot(size_t group, int64_t position) const {
  const int64_t page_size = cache_->options_.page_size;
  return static_cast<int32_t>(groups_[group].pages[static_cast<size_t>(position / page_size)] * page_size +
                              position % page_size);
}

PagedCache::PagedCache(const CacheOptions& options)
    : options_(options),
      pool_(options.pages),
      host_pool_(options.host_pages),
      tree_(static_cast<int>(options.windows.size()), options.page_size, options.pages, options.hash_mask),
      pages_(static_cast<size_t>(options.pages)),
      held_(options.windows.size(), 0),
      peak_held_(options.windows.size(), 0) {
  TS_CHECK(options.page_size > 0 && options.pages > 0 && !options.windows.empty());
  for (int64_t window : options.windows) TS_CHECK(window >= 0);
}

int64_t PagedCache::first_needed(size_t group, int64_t length) const {
  const int64_t window = options_.windows[group];
  return window == 0 ? 0 : std::max<int64_t>(0, length - window + 1) / options_.page_size;
}

std::unique_ptr<CacheSequence> PagedCache::open() {
  std::unique_ptr<CacheSequence> sequence(new CacheSequence(this));
  sequence->groups_.resize(groups());
  sequence->tail_.reserve(static_cast<size_t>(options_.page_size));
  tree_.pin(sequence->node_);
  return sequence;
}

// Pages
// ------------------------------------------------------------------------------------------------------------------

int32_t PagedCache::take(size_t group) {
  std::optional<int32_t> page = pool_.take();
  if (!page) {
    evict();
    page = pool_.take();
  }
  pages_[static_cast<size_t>(*page)] = {.group = static_cast<int32_t>(group)};
  peak_held_[group] = std::max(peak_held_[group], ++held_[group]);
  return *page;
}

void PagedCache::hold(int32_t page) {
  const auto group = static_cast<size_t>(pages_[static_cast<size_t>(page)].group);
  if (pool_.holders(page) == 0) peak_held_[group] = std::max(peak_held_[group], ++held_[group]);
  pool_.hold(page);
}

void PagedCache::drop(int32_t page) {
  const Page& p = pages_[static_cast<size_t>(page)];
  if (pool_.holders(page) == 1) {
    --held_[static_cast<size_t>(p.group)];
    if (!p.keep) unpublish(page);
  }
  pool_.drop(page, p.node != kNone);
}

void PagedCache::unpublish(int32_t page) {
  Page& p = pages_[static_cast<size_t>(page)];
  if (p.node == kNone) return;
  const int32_t node = std::exchange(p.node, kNone);
  tree_.set_page(node, p.group, kNone);
  tree_.prune(node);
}

// Frees the page that was cached longest. Without a page of a full group nothing below its node can be reached, so all
// of that goes with it; no sequence holds any of it, since it would hold this page, too.
void PagedCache::evict() {
  const int32_t page = pool_.oldest();
  TS_CHECK(page != kNone, "reserve() counted the pages");
  const Page& p = pages_[static_cast<size_t>(page)];
  if (options_.windows[static_cast<size_t>(p.group)] > 0) {
    unpublish(page);
    pool_.free_cached(page);
    ++counters_.evicted_pages;
    return;
  }
  std::span<const int32_t> nodes = tree_.subtree(p.node);
  for (size_t i = nodes.size(); i-- > 0;) {  // children first: then pruning takes each node once
    for (size_t g = 0; g < groups(); ++g) {
      const int32_t cached = tree_.page(nodes[i], static_cast<int>(g));
      if (cached == kNone) continue;
      pages_[static_cast<size_t>(cached)].node = kNone;
      tree_.set_page(nodes[i], static_cast<int>(g), kNone);
      pool_.free_cached(cached);
      ++counters_.evicted_pages;
    }
  }
  for (size_t i = nodes.size(); i-- > 0;) tree_.prune(nodes[i]);
}

// Prefixes
// ---------------------------------------------------------------------------------------------------------------

PagedCache::Match PagedCache::find(std::span<const int32_t> tokens) const {
  Match match;
  if (!options_.prefix_cache || tokens.empty()) return match;
  const auto page_size = static_cast<size_t>(options_.page_size);
  const int64_t most = static_cast<int64_t>((tokens.size() - 1) / page_size);
  std::vector<int64_t> run(groups(), 0);  // pages in a row that end here
  int32_t node = PrefixTree::kRoot;
  for (int64_t i = 0; i < most; ++i) {
    node = tree_.find(node, tokens.subspan(static_cast<size_t>(i) * page_size, page_size));
    if (node == kNone) break;
    bool known = true, usable = true;
    for (size_t g = 0; g < groups(); ++g) {
      run[g] = tree_.page(node, static_cast<int>(g)) == kNone ? 0 : run[g] + 1;
      if (options_.windows[g] == 0) known = known && run[g] == i + 1;
      usable = usable && run[g] >= i + 1 - first_needed(g, (i + 1) * options_.page_size);
    }
    if (!known) break;
    match.known_pages = i + 1;
    if (usable) match.pages = i + 1, match.node = node;
  }
  return match;
}

int64_t PagedCache::probe(std::span<const int32_t> tokens) const {
  return find(tokens).pages * options_.page_size;
}

int64_t PagedCache::match(CacheSequence& s, std::span<const int32_t> tokens, int64_t prompt_length) {
  TS_CHECK(s.length_ == 0 && s.groups_[0].pages.empty(), "match() is for a new sequence");
  const Match found = find(tokens);
  s.prompt_length_ = prompt_length;
  s.branch_pages_ = found.known_pages > found.pages ? found.known_pages : 0;
  s.length_ = found.pages * options_.page_size;
  ++counters_.lookups;
  counters_.hits += found.pages > 0;
  counters_.lookup_tokens += static_cast<int64_t>(tokens.size());
  counters_.hit_tokens += s.length_;
  if (found.pages == 0) return 0;
  for (size_t g = 0; g < groups(); ++g) {
    s.groups_[g].pages.assign(static_cast<size_t>(found.pages), CacheSequence::kReleased);
    s.groups_[g].first_held = first_needed(g, s.length_);
  }
  int32_t node = found.node;
  for (int64_t i = found.pages; i-- > 0; node = tree_.parent(node)) {
    for (size_t g = 0; g < groups(); ++g) {
      if (i < s.groups_[g].first_held) continue;
      const int32_t page = tree_.page(node, static_cast<int>(g));
      hold(page);
      pages_[static_cast<size_t>(page)].keep = true;  // two prompts met here; a third may
      s.groups_[g].pages[static_cast<size_t>(i)] = page;
    }
  }
  tree_.pin(found.node);
  tree_.unpin(s.node_);
  s.node_ = found.node;
  return s.length_;
}

// Page `index` of a window group is kept for later prompts: one that differs after this prompt's end, one that differs
// where this prompt met another, or one that shares a long beginning.
bool PagedCache::in_checkpoint(const CacheSequence& s, size_t group, int64_t index) const {
  const int64_t page_size = options_.page_size;
  auto before = [&](int64_t boundary) {  // boundary in pages
    return index < boundary && index >= first_needed(group, boundary * page_size);
  };
  const int64_t every = std::max<int64_t>(1, options_.checkpoint_tokens / page_size);
  const int64_t end = s.prompt_length_ / page_size;
  return before(end) || index == end || before(s.branch_pages_) || before((index / every + 1) * every);
}

// Names the just filled last page in the tree, or takes the page that another sequence has published meanwhile: then
// all holders of a node's pages hold the same ones, and the own copy is free.
void PagedCache::publish(CacheSequence& s) {
  const int64_t index = s.length_ / options_.page_size - 1;
  const int32_t node = tree_.find_or_add(s.node_, s.tail_);
  tree_.pin(node);
  for (size_t g = 0; g < groups(); ++g) {
    int32_t& mine = s.groups_[g].pages[static_cast<size_t>(index)];
    const int32_t other = tree_.page(node, static_cast<int>(g));
    if (other == kNone) {
      tree_.set_page(node, static_cast<int>(g), mine);
      pages_[static_cast<size_t>(mine)].node = node;
    } else {
      hold(other);
      drop(mine);
      mine = other;
    }
    Page& page = pages_[static_cast<size_t>(mine)];
    page.keep = page.keep || options_.windows[g] == 0 || in_checkpoint(s, g, index);
  }
  tree_.unpin(s.node_);
  s.node_ = node;
}

// Sequences
// --------------------------------------------------------------------------------------------------------------

bool PagedCache::reserve(CacheSequence& s, int64_t count) {
  TS_CHECK(!s.swapped_out_, "a sequence that is swapped out has no pages");
  const auto target = static_cast<size_t>(ceil_div(s.length_ + count, options_.page_size));
  const auto last = static_cast<size_t>(s.length_ / options_.page_size);
  const bool partial = s.length_ % options_.page_size != 0 && count > 0;
  size_t needed = 0;
  for (const CacheSequence::Group& group : s.groups_) {
    if (target > group.pages.size()) needed += target - group.pages.size();
    needed += partial && pool_.holders(group.pages[last]) > 1;
  }
  if (needed > static_cast<size_t>(available())) return false;
  for (size_t g = 0; g < groups(); ++g) {
    CacheSequence::Group& group = s.groups_[g];
    if (partial && pool_.holders(group.pages[last]) > 1) {
      const int32_t own = take(g);
      copies_.push_back({static_cast<int>(g), group.pages[last], own});
      drop(std::exchange(group.pages[last], own));
      ++counters_.copied_pages;
    }
    while (group.pages.size() < target) group.pages.push_back(take(g));
  }
  return true;
}

void PagedCache::commit(CacheSequence& s, std::span<const int32_t> tokens) {
  TS_CHECK(s.length_ + static_cast<int64_t>(tokens.size()) <=
               static_cast<int64_t>(s.groups_[0].pages.size()) * options_.page_size,
           "more tokens than were reserved");
  for (int32_t token : tokens) {
    TS_CHECK(token >= 0, "token {} is not known yet", token);
    s.tail_.push_back(token);
    ++s.length_;
    if (s.length_ % options_.page_size != 0) continue;
    if (options_.prefix_cache) publish(s);
    s.tail_.clear();
  }
  trim(s);
  release_passed(s);
}

void PagedCache::trim(CacheSequence& s) {
  const auto used = static_cast<size_t>(ceil_div(s.length_, options_.page_size));
  for (CacheSequence::Group& group : s.groups_) {
    for (; group.pages.size() > used; group.pages.pop_back()) drop(group.pages.back());
  }
}

void PagedCache::release_passed(CacheSequence& s) {
  for (size_t g = 0; g < groups(); ++g) {
    CacheSequence::Group& group = s.groups_[g];
    const int64_t needed = std::min(first_needed(g, s.length_), static_cast<int64_t>(group.pages.size()));
    for (; group.first_held < needed; ++group.first_held)
      drop(std::exchange(group.pages[static_cast<size_t>(group.first_held)], CacheSequence::kReleased));
  }
}

std::unique_ptr<CacheSequence> PagedCache::fork(const CacheSequence& s) {
  TS_CHECK(!s.swapped_out_, "a sequence that is swapped out has no pages to share");
  std::unique_ptr<CacheSequence> copy = open();
  copy->length_ = s.length_;
  copy->groups_ = s.groups_;
  copy->tail_ = s.tail_;
  copy->prompt_length_ = s.prompt_length_;
  for (const CacheSequence::Group& group : copy->groups_)
    for (size_t i = static_cast<size_t>(group.first_held); i < group.pages.size(); ++i) hold(group.pages[i]);
  tree_.unpin(copy->node_);
  copy->node_ = s.node_;
  tree_.pin(copy->node_);
  trim(*copy);  // what the other has reserved ahead is its own
  return copy;
}

// Deepest pages first, so that they are evicted first; window pages last, since one of them is worth a whole prefix.
void PagedCache::give_back(CacheSequence& s) {
  for (bool window : {false, true}) {
    for (size_t g = 0; g < groups(); ++g) {
      if ((options_.windows[g] > 0) != window) continue;
      CacheSequence::Group& group = s.groups_[g];
      for (auto i = static_cast<int64_t>(group.pages.size()); i-- > group.first_held;) {
        const int32_t page = group.pages[static_cast<size_t>(i)];
        pages_[static_cast<size_t>(page)].keep = true;  // unpublished pages are freed all the same
        drop(page);
      }
      group = {};
    }
  }
  if (options_.prefix_cache) refresh_checkpoint(s);
}

void PagedCache::close(CacheSequence& s) {
  if (s.swapped_out_) {
    free_host_pages(s);
  } else {
    give_back(s);
  }
  tree_.unpin(s.node_);
  tree_.prune(s.node_);
}

// The window pages at the prompt's end went to the cache when the window passed them, before the full pages below did:
// they would be evicted first and leave a prefix that nothing can continue from.
void PagedCache::refresh_checkpoint(const CacheSequence& s) {
  int64_t index = s.length_ / options_.page_size;
  const int64_t end = s.prompt_length_ / options_.page_size;
  for (int32_t node = s.node_; node != PrefixTree::kRoot && index-- > 0; node = tree_.parent(node)) {
    if (index > end) continue;
    bool more = false;
    for (size_t g = 0; g < groups(); ++g) {
      if (options_.windows[g] == 0 || index < first_needed(g, end * options_.page_size)) continue;
      more = true;
      const int32_t page = tree_.page(node, static_cast<int>(g));
      if (page != kNone && pool_.holders(page) == 0) pool_.touch(page);
    }
    if (!more) return;
  }
}

}  // namespace tessera
