#include "parallel/socket.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <thread>

#include "core/error.h"

namespace tessera {

namespace {

using AddressList = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

AddressList resolve(const std::string& address, uint16_t port, int flags, std::string* why) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags;
  addrinfo* list = nullptr;
  const int result =
      getaddrinfo(address.empty() ? nullptr : address.c_str(), std::to_string(port).c_str(), &hints, &list);
  if (result != 0) *why = gai_strerror(result);
  return {result == 0 ? list : nullptr, &freeaddrinfo};
}

int milliseconds_left(Deadline deadline) {
  auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
  return static_cast<int>(std::clamp<int64_t>(left, 0, 1 << 30));
}

bool wait_for(int fd, short events, Deadline deadline) {
  pollfd entry{.fd = fd, .events = events, .revents = 0};
  for (;;) {
    const int ready = poll(&entry, 1, milliseconds_left(deadline));
    if (ready > 0) return true;
    if (ready == 0) return false;
    if (errno != EINTR) return true;  // the call that follows says what is wrong
  }
}

void prepare(int fd) {
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
  fcntl(fd, F_SETFD, FD_CLOEXEC);
}

// One attempt on one address: an empty Fd and errno when it fails.
Fd attempt(const addrinfo& to, Deadline deadline) {
  Fd fd(socket(to.ai_family, to.ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, to.ai_protocol));
  if (!fd) return Fd();
  if (connect(fd.get(), to.ai_addr, to.ai_addrlen) == 0) return fd;
  if (errno != EINPROGRESS) return Fd();
  if (!wait_for(fd.get(), POLLOUT, deadline)) {
    errno = ETIMEDOUT;
    return Fd();
  }
  int error = 0;
  socklen_t length = sizeof error;
  getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &length);
  errno = error;
  return error == 0 ? std::move(fd) : Fd();
}

Fd listen_at(const addrinfo& at) {
  Fd fd(socket(at.ai_family, at.ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, at.ai_protocol));
  if (!fd) return Fd();
  const int on = 1;
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(fd.get(), at.ai_addr, at.ai_addrlen) != 0 || listen(fd.get(), 256) != 0) return Fd();
  return fd;
}

}  // namespace

Fd::~Fd() {
  if (fd_ >= 0) close(fd_);
}

FrameSocket::FrameSocket(Fd fd, size_t max_body) : fd_(std::move(fd)), reader_(max_body) {
  prepare(fd_.get());
}

Received FrameSocket::fill() {
  std::span<char> room = reader_.space();
  const ssize_t got = recv(fd_.get(), room.data(), room.size(), MSG_DONTWAIT);
  if (got > 0) {
    reader_.filled(static_cast<size_t>(got));
    return Received::kSome;
  }
  return got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) ? Received::kNothingYet
                                                                                : Received::kClosed;
}

bool FrameSocket::write(std::string_view bytes) {
  if (sent_ == out_.size()) {
    out_.clear();
    sent_ = 0;
  }
  out_ += bytes;
  return flush();
}

bool FrameSocket::flush() {
  while (sent_ < out_.size()) {
    const ssize_t done = ::send(fd_.get(), out_.data() + sent_, out_.size() - sent_, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return errno == EAGAIN || errno == EWOULDBLOCK;
    sent_ += static_cast<size_t>(done);
  }
  return true;
}

bool wait_readable(int fd, Deadline deadline) {
  return wait_for(fd, POLLIN, deadline);
}

Fd listen_on(const std::string& address, uint16_t port) {
  std::string why;
  int error = 0;
  AddressList own = resolve(address, port, 0, &why);
  for (const addrinfo* at = own.get(); at != nullptr; at = at->ai_next) {
    if (Fd fd = listen_at(*at)) return fd;
    error = errno;
  }
  // The name may be that of a router or a container's host: then every interface.
  if (!own || error == EADDRNOTAVAIL) {
    AddressList any = resolve("", port, AI_PASSIVE, &why);
    for (const addrinfo* at = any.get(); at != nullptr; at = at->ai_next) {
      if (Fd fd = listen_at(*at)) return fd;
      error = errno;
    }
  }
  fail(ErrorCode::kIo, "rank 0 cannot listen on {}:{}: {}; set MASTER_PORT to a free port", address, port,
       error != 0 ? std::strerror(error) : why.c_str());
}

uint16_t port_of(const Fd& listener) {
  sockaddr_storage at{};
  socklen_t length = sizeof at;
  getsockname(listener.get(), reinterpret_cast<sockaddr*>(&at), &length);
  return ntohs(at.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(at).sin6_port
                                        : reinterpret_cast<sockaddr_in&>(at).sin_port);
}

Fd accept_from(const Fd& listener, Deadline deadline) {
  for (;;) {
    Fd fd(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (fd) return fd;
    if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
      fail(ErrorCode::kIo, "accepting a connection of a rank: {}", std::strerror(errno));
    if (!wait_for(listener.get(), POLLIN, deadline)) return Fd();
  }
}

Fd connect_to(const std::string& address, uint16_t port, Deadline deadline, std::string* why) {
  for (;;) {
    AddressList list = resolve(address, port, 0, why);
    for (const addrinfo* to = list.get(); to != nullptr; to = to->ai_next) {
      if (Fd fd = attempt(*to, deadline)) return fd;
      *why = std::strerror(errno);
    }
    if (milliseconds_left(deadline) < 100) return Fd();
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

}  // namespace tessera
