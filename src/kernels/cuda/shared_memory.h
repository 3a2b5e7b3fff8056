// GPU memory that other processes and other GPUs of this host write into: made and mapped through the driver's virtual
// memory calls. Its handle is a file descriptor, which travels over a Unix socket.
#pragma once

#include <cstdint>
#include <string>

#include "parallel/socket.h"

namespace tessera::cuda {

class SharedMemory {
 public:
  SharedMemory() = default;
  // Zeroed memory of at least `bytes` on the device. Throws kUnsupported or kOutOfMemory.
  static SharedMemory allocate(int64_t bytes, int device);
  // Another process's, by the descriptor that it handed out, for use by `device`.
  static SharedMemory import(const Fd& handle, int64_t bytes, int device);
  // Memory that another thread of this process allocated, mapped again: it stays when its owner lets go of it.
  static SharedMemory again(char* data, int64_t bytes, int device);
  ~SharedMemory();
  SharedMemory(SharedMemory&& other) noexcept { *this = std::move(other); }
  SharedMemory& operator=(SharedMemory&& other) noexcept;

  char* data() const { return reinterpret_cast<char*>(address_); }
  int64_t bytes() const { return bytes_; }
  Fd handle() const;  // to be handed to other processes

 private:
  uint64_t address_ = 0;
  int64_t bytes_ = 0;
  unsigned long long allocation_ = 0;
};

// Hands a descriptor to whoever connects, and fetches theirs. Each waits up to 20 seconds and throws kIo.
class FdPost {
 public:
  FdPost();
  const std::string& name() const { return name_; }
  static Fd connect(const std::string& name);
  void hand_out(const Fd& what);  // to the next who connected
  static Fd fetch(const Fd& connection);

 private:
  std::string name_;
  Fd listener_;
};

}  // namespace tessera::cuda
