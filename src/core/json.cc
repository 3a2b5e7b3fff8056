#include "core/json.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/error.h"

namespace tessera {

std::string read_text_file(const std::string& path, int64_t max_bytes) {
  int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    fail(errno == ENOENT || errno == ENOTDIR ? ErrorCode::kNotFound : ErrorCode::kIo, "{}: {}", path,
         std::strerror(errno));
  }
  struct stat st {};
  std::string text;
  if (fstat(fd, &st) != 0 || S_ISDIR(st.st_mode)) {
    close(fd);
    fail(ErrorCode::kIo, "{}: is not a regular file", path);
  }
  if (st.st_size > max_bytes) {
    close(fd);
    fail(ErrorCode::kCorrupt, "{}: {} bytes is more than the {} this file may have", path, st.st_size, max_bytes);
  }
  text.resize(static_cast<size_t>(st.st_size));
  size_t done = 0;
  while (done < text.size()) {
    ssize_t n = read(fd, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      int error = errno;
      close(fd);
      fail(ErrorCode::kIo, "{}: {}", path, std::strerror(error));
    }
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  close(fd);
  text.resize(done);
  return text;
}

Json read_json_file(const std::string& path, int64_t max_bytes) {
  std::string text = read_text_file(path, max_bytes);
  try {
    return Json::parse(text);
  } catch (const Json::exception& e) {
    fail(ErrorCode::kCorrupt, "{}: not valid JSON ({}); is the download complete?", path, e.what());
  }
}

void write_text_file(const std::string& path, const std::string& text) {
  // A device or pipe is written to, not replaced by a file.
  struct stat st {};
  bool special = stat(path.c_str(), &st) == 0 && !S_ISREG(st.st_mode);
  std::string temporary = special ? path : fmt::format("{}.{}.tmp", path, gettid());
  auto give_up = [&](const char* what) {
    int error = errno;
    if (!special) unlink(temporary.c_str());
    fail(ErrorCode::kIo, "{}: cannot {}: {}", path, what, std::strerror(error));
  };
  int fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) give_up("create");
  size_t done = 0;
  while (done < text.size()) {
    ssize_t n = write(fd, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      int error = errno;
      close(fd);
      errno = error;
      give_up("write");
    }
    done += static_cast<size_t>(n);
  }
  if ((!special && fsync(fd) != 0) || close(fd) != 0) give_up("write");
  if (!special && rename(temporary.c_str(), path.c_str()) != 0) give_up("rename");
}

}  // namespace tessera
