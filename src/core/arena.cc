#include "core/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <utility>

namespace tessera {

namespace {
constexpr int64_t kAlign = 64;               // one cache line, and the widest vector load
constexpr int64_t kHugePage = int64_t{2} << 20;
}  // namespace

Arena::Arena(int64_t capacity) {
  capacity = std::max<int64_t>((capacity + kHugePage - 1) / kHugePage * kHugePage, kHugePage);
  void* p = mmap(nullptr, static_cast<size_t>(capacity), PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) {
    fail(ErrorCode::kOutOfMemory, "cannot allocate {:.1f} MiB of memory; close other programs or use a smaller model or context",
         static_cast<double>(capacity) / (1 << 20));
  }
  madvise(p, static_cast<size_t>(capacity), MADV_HUGEPAGE);  // experts picked at random defeat the TLB with 4 KiB pages
  base_ = static_cast<char*>(p);
  capacity_ = capacity;
  owns_ = true;
}

Arena Arena::measuring() {
  Arena arena;
  arena.base_ = reinterpret_cast<char*>(kAlign);  // not null, so that Tensors are defined
  arena.capacity_ = int64_t{1} << 60;
  return arena;
}

Arena::~Arena() {
  if (owns_) munmap(base_, static_cast<size_t>(capacity_));
}

Arena::Arena(Arena&& other) noexcept { *this = std::move(other); }

Arena& Arena::operator=(Arena&& other) noexcept {
  std::swap(base_, other.base_);
  std::swap(capacity_, other.capacity_);
  std::swap(used_, other.used_);
  std::swap(peak_, other.peak_);
  std::swap(owns_, other.owns_);
  return *this;
}

void* Arena::allocate(int64_t bytes) {
  TS_CHECK(bytes >= 0 && bytes <= capacity_ - used_, "arena of {} bytes is full: {} used, {} asked", capacity_, used_, bytes);
  void* p = base_ + used_;
  used_ = std::min(capacity_, (used_ + bytes + kAlign - 1) / kAlign * kAlign);
  peak_ = std::max(peak_, used_);
  return p;
}

Tensor Arena::tensor(DType dtype, Shape shape) {
  return Tensor{allocate(shape.numel() * dtype_size(dtype)), shape, dtype, Device{}};
}

}  // namespace tessera
