#include "engine/page_swap.h"

#include "core/error.h"
#include "core/host_memory.h"

namespace tessera {

PageMover::PageMover(DeviceContext& context, const CacheLayout& layout, std::span<const KvPages> stores,
                     int64_t host_pages)
    : context_(context), slices_(layout.groups.size()) {
  std::vector<int64_t> offsets;
  for (const KvPages& store : stores) {
    offsets.push_back(host_page_bytes_);
    host_page_bytes_ += 2 * store.k.rows(0, 1).bytes();
  }
  for (size_t g = 0; g < slices_.size(); ++g) {
    for (int layer : layout.groups[g].layers) {
      const auto s = static_cast<size_t>(layout.store_of_layer[static_cast<size_t>(layer)]);
      slices_[g].push_back({stores[s].k, offsets[s]});
      slices_[g].push_back({stores[s].v, offsets[s] + stores[s].k.rows(0, 1).bytes()});
    }
  }
  host_bytes_ = host_pages * host_page_bytes_;
  if (host_bytes_ == 0) return;
  const int64_t available = available_memory();
  if (available > 0 && host_bytes_ > available) {
    fail(ErrorCode::kOutOfMemory,
         "swapping out needs {:.1f} MiB of main memory and {:.1f} are free; lower --swap-memory",
         static_cast<double>(host_bytes_) / (1 << 20), static_cast<double>(available) / (1 << 20));
  }
  host_ = static_cast<char*>(context_.allocate_host(host_bytes_));
}

PageMover::~PageMover() {
  context_.release_host(host_);
}

void PageMover::make(std::span<const PageCopy> copies) {
  for (const PageCopy& copy : copies) {
    for (const Slice& slice : slices_[static_cast<size_t>(copy.group)]) {
      auto on_device = [&](int32_t page) { return slice.pages.rows(page, 1).data; };
      auto on_host = [&](int32_t page) { return host_ + page * host_page_bytes_ + slice.host_offset; };
      const int64_t bytes = slice.pages.rows(0, 1).bytes();
      switch (copy.way) {
        case PageCopy::Way::kOnDevice:
          context_.copy_on_device(on_device(copy.to), on_device(copy.from), bytes);
          break;
        case PageCopy::Way::kToHost:
          context_.to_host(on_host(copy.to), on_device(copy.from), bytes);
          break;
        case PageCopy::Way::kToDevice:
          context_.to_device(on_device(copy.to), on_host(copy.from), bytes);
          break;
      }
    }
  }
}

}  // namespace tessera
