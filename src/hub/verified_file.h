// A kernel's file as bytes that nobody can change any more: copied into a sealed memory file while they are hashed, so
// what is loaded is what was checked, whatever happens to the folder meanwhile.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hub/content_hash.h"
#include "hub/kernel_repo.h"

namespace tessera::hub {

class VerifiedFile {
 public:
  explicit VerifiedFile(int fd);  // takes it
  ~VerifiedFile();
  VerifiedFile(VerifiedFile&& other) noexcept;
  VerifiedFile& operator=(VerifiedFile&&) = delete;

  // "/proc/self/fd/N": for dlopen() and open() in this process, and in children that inherit it. Keep the object for as
  // long as the library is loaded: dlopen() knows libraries by their path.
  const std::string& path() const { return path_; }
  int fd() const { return fd_; }

 private:
  int fd_ = -1;
  std::string path_;
};

// The file `name` of `kernel.files`. Throws kCorrupt, naming both hashes, when its bytes are not the ones that were
// checked; kNotFound, kIo.
VerifiedFile verified_file(const LocalKernel& kernel, const std::string& name);
// The library, that is.
VerifiedFile verified_library(const LocalKernel& kernel);

struct FileHashes {
  int64_t size = 0;                 // bytes that were hashed
  std::vector<std::string> hashes;  // one a kind that was asked for, lower-case digits
};
// Throws kNotFound, kIo.
FileHashes hash_file(const std::string& path, const std::vector<HashKind>& kinds);

}  // namespace tessera::hub
