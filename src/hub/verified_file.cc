#include "hub/verified_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "core/error.h"
#include "hub/hub_id.h"

namespace tessera::hub {

namespace {

constexpr size_t kPiece = size_t{1} << 20;

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  int get() const { return fd_; }
  int take() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

void write_all(int fd, const char* data, size_t bytes, const std::string& what) {
  while (bytes > 0) {
    const ssize_t n = write(fd, data, bytes);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail(ErrorCode::kIo, "{}: no memory for a copy of it ({})", what, std::strerror(errno));
    data += n;
    bytes -= static_cast<size_t>(n);
  }
}

// Calls visit(data, bytes) over the whole file.
template <class Visit>
void read_all(const std::string& path, Visit visit) {
  Descriptor in(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (in.get() < 0)
    fail(errno == ENOENT ? ErrorCode::kNotFound : ErrorCode::kIo, "{}: cannot be read ({})", path, std::strerror(errno));
  std::vector<char> piece(kPiece);
  for (;;) {
    const ssize_t n = read(in.get(), piece.data(), piece.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(ErrorCode::kIo, "{}: cannot be read ({})", path, std::strerror(errno));
    if (n == 0) return;
    visit(piece.data(), static_cast<size_t>(n));
  }
}

}  // namespace

VerifiedFile::VerifiedFile(int fd) : fd_(fd), path_(fmt::format("/proc/self/fd/{}", fd)) {}

VerifiedFile::~VerifiedFile() {
  if (fd_ >= 0) close(fd_);
}

VerifiedFile::VerifiedFile(VerifiedFile&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), path_(std::move(other.path_)) {}

FileHashes hash_file(const std::string& path, const std::vector<HashKind>& kinds) {
  FileHashes out;
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  if (error) fail(ErrorCode::kIo, "{}: cannot be read ({})", path, error.message());
  std::vector<ContentHash> hashes;
  for (HashKind kind : kinds) hashes.emplace_back(kind, static_cast<int64_t>(size));
  read_all(path, [&](const char* data, size_t bytes) {
    for (ContentHash& hash : hashes) hash.update(data, bytes);
    out.size += static_cast<int64_t>(bytes);
  });
  for (ContentHash& hash : hashes) out.hashes.push_back(hash.finish());
  return out;
}

VerifiedFile verified_file(const LocalKernel& kernel, const std::string& name) {
  const auto file = std::ranges::find(kernel.files, name, &KernelFile::name);
  const std::string what = kernel.text() + "/" + shown(name);
  if (file == kernel.files.end()) fail(ErrorCode::kNotFound, "{}: no such file in the kernel", what);
  Descriptor copy(memfd_create("tessera-kernel", MFD_ALLOW_SEALING | MFD_CLOEXEC));
  if (copy.get() < 0) fail(ErrorCode::kIo, "{}: no memory file for it ({})", what, std::strerror(errno));
  ContentHash hash(HashKind::kSha256);
  read_all(kernel.folder + "/" + name, [&](const char* data, size_t bytes) {
    hash.update(data, bytes);
    write_all(copy.get(), data, bytes, what);
  });
  const std::string found = hash.finish();
  if (found != file->sha256)
    fail(ErrorCode::kCorrupt,
         "{}: refused, the file changed after it was checked: SHA-256 {}, expected {}; 'tessera cache delete {}' and "
         "fetch it again",
         what, found, file->sha256, kernel.repo);
  if (fcntl(copy.get(), F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
    fail(ErrorCode::kIo, "{}: its copy cannot be sealed ({})", what, std::strerror(errno));
  return VerifiedFile(copy.take());
}

VerifiedFile verified_library(const LocalKernel& kernel) {
  return verified_file(kernel, kernel.library);
}

}  // namespace tessera::hub
