#include "hub/file_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <thread>
#include <utility>

#include "core/error.h"

namespace tessera::hub {

FileLock::FileLock(const std::string& path, const std::function<void()>& wait) {
  namespace fs = std::filesystem;
  std::error_code error;
  fs::create_directories(fs::path(path).parent_path(), error);
  for (;;) {
    fd_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0664);
    if (fd_ < 0) fail(ErrorCode::kIo, "{}: cannot be opened ({})", path, std::strerror(errno));
    if (flock(fd_, LOCK_EX | LOCK_NB) == 0) {
      struct stat mine {};
      if (fstat(fd_, &mine) == 0 && mine.st_nlink > 0) return;
      close(std::exchange(fd_, -1));  // somebody removed the file meanwhile: this lock guards no name
      continue;
    }
    const int why = errno;
    close(std::exchange(fd_, -1));
    if (why == ENOSYS || why == ENOTSUP || why == ENOLCK)
      fail(ErrorCode::kIo, "{}: this file system has no locks ({}); set HF_HUB_CACHE to a folder on one that has", path,
           std::strerror(why));
    if (why != EWOULDBLOCK && why != EINTR && why != EACCES)
      fail(ErrorCode::kIo, "{}: cannot be locked ({})", path, std::strerror(why));
    wait();
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

FileLock::FileLock(FileLock&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

FileLock::~FileLock() {
  if (fd_ >= 0) close(fd_);
}

}  // namespace tessera::hub
