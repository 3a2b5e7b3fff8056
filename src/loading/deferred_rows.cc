#include "loading/deferred_rows.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/error.h"

namespace tessera {

DeferredRows::~DeferredRows() {
  if (base_) ::munmap(base_, static_cast<size_t>(bytes_));
}

void DeferredRows::reserve(int64_t bytes) {
  if (bytes == 0) return;
  void* memory =
      ::mmap(nullptr, static_cast<size_t>(bytes), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED)
    fail(ErrorCode::kOutOfMemory, "{} bytes of address space are refused: {}", bytes, std::strerror(errno));
  base_ = static_cast<char*>(memory);
  bytes_ = bytes;
}

void* DeferredRows::add(RowForm form) {
  TS_CHECK(form.bytes <= bytes_ - used_, "{} bytes of {} are taken, {} more asked", used_, bytes_, form.bytes);
  char* at = base_ + used_;
  starts_.push_back(used_);
  used_ = std::min(bytes_, used_ + (form.bytes + kAlign - 1) / kAlign * kAlign);
  forms_.push_back(std::move(form));
  return at;
}

bool DeferredRows::holds(const void* address) const {
  const char* at = static_cast<const char*>(address);
  return base_ && at >= base_ && at < base_ + bytes_;
}

size_t DeferredRows::index_of(const void* address) const {
  const int64_t at = static_cast<const char*>(address) - base_;
  return static_cast<size_t>(std::upper_bound(starts_.begin(), starts_.end(), at) - starts_.begin()) - 1;
}

void DeferredRows::read(const void* address, int64_t bytes, char* to) const {
  const size_t i = index_of(address);
  const int64_t begin = static_cast<const char*>(address) - base_ - starts_[i];
  TS_CHECK(begin + bytes <= forms_[i].bytes);
  forms_[i].read(begin, bytes, to);
}

}  // namespace tessera
