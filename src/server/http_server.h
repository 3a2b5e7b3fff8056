// The HTTP/1.1 server: one I/O thread for all connections, a few workers that read JSON and encode prompts. Bounded
// everywhere: connections, requests, head and body sizes, bodies in memory, time for each of a request's phases, and
// what a slow reader leaves unread. A client that goes away ends its request at once.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "server/state.h"

namespace tessera::server {

class HttpServer {
 public:
  // Listens at once. Throws kInvalidArgument for a host that is no address of this machine, kIo when the port is taken.
  explicit HttpServer(ServerState& state);
  ~HttpServer();

  uint16_t port() const;
  // Serves in the calling thread until the drain is over.
  void run();
  // Safe from any thread: no new requests, running ones go on for drain_seconds; a second call ends them. `run`
  // returns once the last connection is closed.
  void drain();
  // As drain() on SIGTERM and SIGINT. Returns nothing; signal() tells which came first, 0: none.
  void drain_on_signals();
  int signal() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tessera::server
