// An exclusive flock() on a lock file, as Python's filelock takes it: the two keep each other out. Released by the
// destructor, and by the kernel when the process dies. The file stays.
#pragma once

#include <functional>
#include <string>

namespace tessera::hub {

class FileLock {
 public:
  // Waits until nobody else holds it, calling wait() about ten times a second; what wait() throws ends the waiting.
  // Makes the folders around the file. Throws kIo.
  FileLock(const std::string& path, const std::function<void()>& wait);
  ~FileLock();
  FileLock(FileLock&& other) noexcept;
  FileLock& operator=(FileLock&&) = delete;

 private:
  int fd_ = -1;
};

}  // namespace tessera::hub
