#include "loading/prefetch.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <vector>

#include "core/error.h"
#include "loading/parallel_tasks.h"

namespace tessera {

namespace {

constexpr int64_t kBlock = int64_t{4} << 20;
constexpr int64_t kPage = 4096;
constexpr int kPopulateRead = 22;  // MADV_POPULATE_READ, Linux 5.14; glibc 2.35 names it

struct Block {
  int fd = -1;
  int64_t offset = 0, bytes = 0;
  char* at = nullptr;  // where it is mapped
  const std::string* path = nullptr;
};

class OpenFiles {
 public:
  explicit OpenFiles(const SafetensorsSet& set) {
    for (const SafetensorsFile& file : set.files()) {
      if (file.data_bytes() == 0) continue;
      const int fd = ::open(file.path().c_str(), O_RDONLY | O_CLOEXEC);
      if (fd < 0) fail(ErrorCode::kIo, "{}: {}", file.path(), std::strerror(errno));
      fds_.push_back(fd);
      char* first = file.view(file.tensors().front()).as<char>();
      char* start = first - reinterpret_cast<uintptr_t>(first) % kPage;
      const int64_t size = ::lseek(fd, 0, SEEK_END), skipped = size - file.data_bytes() - (first - start);
      const int64_t bytes = first - start + file.data_bytes();
      for (int64_t at = 0; at < bytes; at += kBlock)
        blocks.push_back({fd, skipped + at, std::min(kBlock, bytes - at), start + at, &file.path()});
    }
  }
  ~OpenFiles() {
    for (int fd : fds_) ::close(fd);
  }
  OpenFiles(const OpenFiles&) = delete;

  std::vector<Block> blocks;

 private:
  std::vector<int> fds_;
};

// An older system faults the pages in.
void touch(const Block& b) {
  const volatile char* bytes = b.at;
  for (int64_t at = 0; at < b.bytes; at += kPage) (void)bytes[at];
}

void map_pages(const Block& b) {
  while (::madvise(b.at, static_cast<size_t>(b.bytes), kPopulateRead) != 0) {
    if (errno == EINTR || errno == EAGAIN) continue;
    if (errno == EFAULT) fail(ErrorCode::kCorrupt, "{}: was cut while it was being loaded; load it again", *b.path);
    if (errno != EINVAL) fail(ErrorCode::kIo, "{}: cannot be read: {}", *b.path, std::strerror(errno));
    return touch(b);
  }
}

}  // namespace

void prefetch(const SafetensorsSet& set, ThreadPool& pool) {
  const OpenFiles files(set);
  const std::vector<Block>& blocks = files.blocks;
  const auto ahead = static_cast<size_t>(2 * pool.size());
  auto ask = [&](size_t i) {
    if (i < blocks.size()) ::readahead(blocks[i].fd, blocks[i].offset, static_cast<size_t>(blocks[i].bytes));
  };
  for (size_t i = 0; i < ahead; ++i) ask(i);
  std::atomic<size_t> next{0};
  parallel_tasks(pool, pool.size(), [&](int64_t) {
    for (size_t i = next++; i < blocks.size(); i = next++) {
      ask(i + ahead);
      map_pages(blocks[i]);
    }
  });
}

void forget_pages(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail(ErrorCode::kIo, "{}: {}", path, std::strerror(errno));
  ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  ::close(fd);
}

}  // namespace tessera
