#include "loading/prefetch.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>

#include "core/error.h"
#include "loading/parallel_tasks.h"

namespace tessera {

namespace {

constexpr int64_t kBlock = int64_t{4} << 20;
constexpr int64_t kPage = 4096;
constexpr int64_t kSmallGap = 16 * kPage;  // the system reads so much ahead anyway
constexpr int kPopulateRead = 22;          // MADV_POPULATE_READ, Linux 5.14; glibc 2.35 names it

// Whole pages that hold the sorted ranges, each once.
std::vector<MappedRange> merged_pages(std::span<const MappedRange> ranges) {
  std::vector<MappedRange> merged;
  for (const MappedRange& range : ranges) {
    const char* begin = range.at - reinterpret_cast<uintptr_t>(range.at) % kPage;
    const int64_t bytes = (range.at + range.bytes - begin + kPage - 1) / kPage * kPage;
    if (!merged.empty() && begin - (merged.back().at + merged.back().bytes) < kSmallGap) {
      merged.back().bytes = std::max(merged.back().bytes, begin + bytes - merged.back().at);
    } else {
      merged.push_back({begin, bytes});
    }
  }
  return merged;
}

}  // namespace

FilePrefetch::FilePrefetch(const SafetensorsSet& set, std::vector<MappedRange> ranges) {
  std::erase_if(ranges, [](const MappedRange& range) { return range.bytes == 0; });
  std::sort(ranges.begin(), ranges.end(), [](const MappedRange& a, const MappedRange& b) { return a.at < b.at; });
  for (const SafetensorsFile& file : set.files()) {
    if (file.data_bytes() == 0) continue;
    const char* first = file.view(file.tensors().front()).as<char>();
    const char* end = first + file.data_bytes();
    auto before = [](const MappedRange& range, const char* at) { return range.at < at; };
    const auto mine = std::lower_bound(ranges.begin(), ranges.end(), first, before);
    const auto others = std::lower_bound(mine, ranges.end(), end, before);
    if (mine == others) continue;
    const int fd = ::open(file.path().c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) fail(ErrorCode::kIo, "{}: {}", file.path(), std::strerror(errno));
    fds_.push_back(fd);
    const int64_t size = ::lseek(fd, 0, SEEK_END);
    for (const MappedRange& range : merged_pages({mine, others})) {
      const int64_t offset = size - (end - range.at);
      bytes_ += range.bytes;
      for (int64_t at = 0; at < range.bytes; at += kBlock) {
        blocks_.push_back(
            {fd, offset + at, std::min(kBlock, range.bytes - at), const_cast<char*>(range.at) + at, &file.path()});
      }
    }
  }
}

FilePrefetch::~FilePrefetch() {
  for (int fd : fds_) ::close(fd);
}

void FilePrefetch::run(ThreadPool& pool, LoadProgress& progress) const {
  const auto ahead = static_cast<size_t>(2 * pool.size());
  auto ask = [&](size_t i) {
    if (i < blocks_.size()) ::readahead(blocks_[i].fd, blocks_[i].offset, static_cast<size_t>(blocks_[i].bytes));
  };
  for (size_t i = 0; i < ahead; ++i) ask(i);
  std::atomic<size_t> next{0};
  parallel_tasks(pool, pool.size(), [&](int64_t) {
    for (size_t i = next++; i < blocks_.size(); i = next++) {
      ask(i + ahead);
      populate_pages(blocks_[i].at, blocks_[i].bytes, *blocks_[i].path);
      progress.add(blocks_[i].bytes);
    }
  });
}

void populate_pages(char* at, int64_t bytes, const std::string& what) {
  while (::madvise(at, static_cast<size_t>(bytes), kPopulateRead) != 0) {
    if (errno == EINTR || errno == EAGAIN) continue;
    if (errno == EFAULT) fail(ErrorCode::kCorrupt, "{}: was cut while it was being loaded; load it again", what);
    if (errno != EINVAL) fail(ErrorCode::kIo, "{}: cannot be read: {}", what, std::strerror(errno));
    const volatile char* pages = at;  // an older system faults them in
    for (int64_t i = 0; i < bytes; i += kPage) (void)pages[i];
    return;
  }
}

void forget_pages(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail(ErrorCode::kIo, "{}: {}", path, std::strerror(errno));
  ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  ::close(fd);
}

}  // namespace tessera
