// A TCP connection that carries frames, and what listens for one. Not thread-safe.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <utility>

#include "parallel/wire.h"

namespace tessera {

using Deadline = std::chrono::steady_clock::time_point;

// Owns a file descriptor.
class Fd {
 public:
  explicit Fd(int fd = -1) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd();
  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_;
};

enum class Received : uint8_t { kSome, kNothingYet, kClosed };

class FrameSocket {
 public:
  FrameSocket(Fd fd, size_t max_body);
  int fd() const { return fd_.get(); }

  // Takes what has arrived, without waiting.
  Received fill();
  // A whole frame of what fill() took. Throws kCorrupt.
  std::optional<Frame> next() { return reader_.next(); }

  void allow(size_t max_body) { reader_.allow(max_body); }

  // Writes what it can without waiting and keeps the rest. False when the connection is gone.
  bool write(std::string_view bytes);
  bool flush();
  bool unsent() const { return sent_ < out_.size(); }

 private:
  Fd fd_;
  FrameReader reader_;
  std::string out_;
  size_t sent_ = 0;
};

// Waits until the descriptor can be read (or written), or the deadline.
bool wait_readable(int fd, Deadline deadline);

// Throws kIo when nothing can listen there. The address names an interface of this machine, or any is taken.
Fd listen_on(const std::string& address, uint16_t port);
uint16_t port_of(const Fd& listener);
// An empty Fd when the deadline comes first.
Fd accept_from(const Fd& listener, Deadline deadline);
// Tries until the deadline; an empty Fd and the last reason then.
Fd connect_to(const std::string& address, uint16_t port, Deadline deadline, std::string* why);

}  // namespace tessera
