#include "loading/arranged_cache.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <vector>

#include "core/error.h"
#include "core/log.h"
#include "hub/content_hash.h"
#include "hub/file_lock.h"
#include "loading/parallel_tasks.h"

namespace tessera {

namespace {

namespace fs = std::filesystem;

constexpr char kMagic[8] = {'t', 's', 'r', 'a', 'r', 'r', '0', '1'};  // the last two: of this file's own form
constexpr int64_t kHeaderBytes = 4096;                                // content begins on a page
constexpr int64_t kBlock = int64_t{2} << 20;

struct Header {
  char magic[8];
  char key[64];
  int64_t bytes;
  uint64_t checksum;  // of the content's
  uint64_t own;       // of the fields before
};

struct Busy {};

std::string sha256(std::string_view text) {
  hub::ContentHash hash(hub::HashKind::kSha256);
  hash.update(text.data(), text.size());
  return hash.finish();
}

// Four independent sums, as fast as memory: a changed, moved or missing word changes them.
uint64_t checksum(const char* data, int64_t bytes) {
  constexpr uint64_t kPrime = 0x9e3779b97f4a7c15u;
  uint64_t sums[4] = {1, 2, 3, 4};
  auto add = [](uint64_t sum, uint64_t word) { return std::rotl((sum ^ word) * kPrime, 29); };
  int64_t at = 0;
  for (; at + 32 <= bytes; at += 32) {
    uint64_t words[4];
    std::memcpy(words, data + at, 32);
    for (int i = 0; i < 4; ++i) sums[i] = add(sums[i], words[i]);
  }
  uint64_t rest[4] = {};
  std::memcpy(rest, data + at, static_cast<size_t>(bytes - at));
  uint64_t all = static_cast<uint64_t>(bytes);
  for (int i = 0; i < 4; ++i) all = add(all, add(sums[i], rest[i]));
  return all;
}

uint64_t checksum(const char* data, int64_t bytes, ThreadPool& pool) {
  std::vector<uint64_t> sums(static_cast<size_t>((bytes + kBlock - 1) / kBlock));
  parallel_tasks(pool, static_cast<int64_t>(sums.size()), [&](int64_t i) {
    sums[static_cast<size_t>(i)] = checksum(data + i * kBlock, std::min(kBlock, bytes - i * kBlock));
  });
  return checksum(reinterpret_cast<const char*>(sums.data()), static_cast<int64_t>(sums.size() * 8));
}

uint64_t own_checksum(const Header& h) {
  return checksum(reinterpret_cast<const char*>(&h), offsetof(Header, own));
}

bool is_digest(const std::string& name) {
  return (name.size() == 40 || name.size() == 64) && name.find_first_not_of("0123456789abcdef") == std::string::npos;
}

// In the hub's cache a file is a link to a blob that bears its hash as a name. Elsewhere size, time of change and the
// header stand for the content.
std::string identity(const SafetensorsFile& file) {
  std::error_code ignored;
  const fs::path blob = fs::canonical(file.path(), ignored);
  struct stat info {};
  if (::stat(file.path().c_str(), &info) != 0) fail(ErrorCode::kIo, "{}: {}", file.path(), std::strerror(errno));
  if (blob.parent_path().filename() == "blobs" && is_digest(blob.filename().string()))
    return fmt::format("{} {}\n", blob.filename().string(), info.st_size);
  std::string tensors;
  for (const TensorInfo& t : file.tensors()) {
    tensors += fmt::format("{} {} {} {}", t.name, static_cast<int>(t.dtype), t.begin, t.end);
    for (int64_t i = 0; i < t.shape.rank(); ++i) tensors += fmt::format(" {}", t.shape[i]);
  }
  return fmt::format("{} {}.{:09} {}\n", info.st_size, info.st_mtim.tv_sec, info.st_mtim.tv_nsec, sha256(tensors));
}

class OpenFile {
 public:
  OpenFile(const std::string& path, int flags) : fd_(::open(path.c_str(), flags | O_CLOEXEC, 0644)) {}
  ~OpenFile() {
    if (fd_ >= 0) ::close(fd_);
  }
  OpenFile(const OpenFile&) = delete;
  int fd() const { return fd_; }
  bool write(const void* data, int64_t bytes) const {
    const char* at = static_cast<const char*>(data);
    while (bytes > 0) {
      const ssize_t done = ::write(fd_, at, static_cast<size_t>(std::min(bytes, int64_t{1} << 26)));
      if (done < 0 && errno == EINTR) continue;
      if (done < 0) return false;
      at += done, bytes -= done;
    }
    return true;
  }

 private:
  int fd_;
};

bool write_all(const std::string& path, const Header& header, const char* content) {
  const OpenFile file(path, O_WRONLY | O_CREAT | O_TRUNC);
  if (file.fd() < 0) return false;
  const int refused = ::posix_fallocate(file.fd(), 0, kHeaderBytes + header.bytes);
  if (refused != 0) {
    errno = refused;
    return false;
  }
  std::vector<char> page(kHeaderBytes);
  std::memcpy(page.data(), &header, sizeof header);
  return file.write(page.data(), kHeaderBytes) && file.write(content, header.bytes) && ::fsync(file.fd()) == 0;
}

}  // namespace

ArrangedCache::ArrangedCache(const std::string& folder, const SafetensorsSet& set, int layout,
                             const std::string& what) {
  std::string content = fmt::format("layout {}\n{}\n", layout, what), paths = what + "\n";
  for (const SafetensorsFile& file : set.files()) {
    content += identity(file);
    paths += fs::absolute(file.path()).string() + "\n";
  }
  key_ = sha256(content);
  path_ = (fs::path(folder) / (sha256(paths).substr(0, 24) + ".arranged")).string();
}

ArrangedCache::~ArrangedCache() {
  if (mapped_) ::munmap(mapped_, static_cast<size_t>(mapped_bytes_));
}

const char* ArrangedCache::open(int64_t bytes, ThreadPool& pool) {
  const OpenFile file(path_, O_RDONLY);
  if (file.fd() < 0) {
    if (errno != ENOENT) log::warn("{}: {}; weights are made anew", path_, std::strerror(errno));
    return nullptr;
  }
  auto refuse = [&](const char* why) -> const char* {
    log::warn("{}: {}; weights are made anew", path_, why);
    return nullptr;
  };
  struct stat info {};
  Header header{};
  if (::fstat(file.fd(), &info) != 0 || ::pread(file.fd(), &header, sizeof header, 0) != ssize_t{sizeof header} ||
      std::memcmp(header.magic, kMagic, sizeof kMagic) != 0 || header.own != own_checksum(header))
    return refuse("is no file of arranged weights, or a damaged one");
  if (std::string_view(header.key, sizeof header.key) != key_ || header.bytes != bytes)
    return refuse("is of another version of the model or of the program");
  if (info.st_size != kHeaderBytes + bytes) return refuse("was cut");
  void* memory = ::mmap(nullptr, static_cast<size_t>(info.st_size), PROT_READ, MAP_PRIVATE, file.fd(), 0);
  if (memory == MAP_FAILED) return refuse(std::strerror(errno));
  mapped_ = memory;
  mapped_bytes_ = info.st_size;
  const char* content = static_cast<const char*>(memory) + kHeaderBytes;
  ::madvise(memory, static_cast<size_t>(mapped_bytes_), MADV_WILLNEED);
  return checksum(content, bytes, pool) == header.checksum ? content : refuse("is damaged");
}

void ArrangedCache::write(const char* content, int64_t bytes, ThreadPool& pool) const {
  try {
    const hub::FileLock lock(path_ + ".lock", [] { throw Busy{}; });
    Header header{};
    std::memcpy(header.magic, kMagic, sizeof kMagic);
    std::memcpy(header.key, key_.data(), sizeof header.key);
    header.bytes = bytes;
    header.checksum = checksum(content, bytes, pool);
    header.own = own_checksum(header);
    const std::string part = path_ + ".part";
    if (!write_all(part, header, content) || ::rename(part.c_str(), path_.c_str()) != 0) {
      const int why = errno;
      ::unlink(part.c_str());
      log::warn("{}: {}; the next load makes the weights anew", path_, std::strerror(why));
      return;
    }
    const OpenFile folder(fs::path(path_).parent_path().string(), O_RDONLY | O_DIRECTORY);
    if (folder.fd() >= 0) ::fsync(folder.fd());
  } catch (const Busy&) {
  } catch (const Error& e) {
    log::warn("{}; the next load makes the weights anew", e.what());
  }
}

}  // namespace tessera
