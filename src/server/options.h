// What `tessera serve` is told; and what the server counts.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tessera::server {

struct ServerOptions {
  std::string host = "127.0.0.1";
  uint16_t port = 8000;  // 0: any free one
  std::string model_name;
  std::string model_path;                 // another name that requests may use
  std::vector<std::string> api_keys;      // empty: no key is asked for
  std::vector<std::string> cors_origins;  // "*": all
  bool log_bodies = false;

  int64_t max_connections = 4096;
  int64_t max_open_requests = 4096;               // being read, waiting, running
  int64_t max_body_bytes = int64_t{8} << 20;      // of one request
  int64_t max_bodies_bytes = int64_t{256} << 20;  // of all that are held at once
  int64_t max_header_bytes = 16 << 10;
  int64_t max_pending_bytes = 4 << 20;  // of one answer that its client has not read yet
  int64_t stored_responses = 1000;      // of /v1/responses
  int64_t stored_bytes = int64_t{64} << 20;

  double header_seconds = 10;     // from a request's first byte to the end of its head
  double body_seconds = 30;       // for its body, and as long again for each MB
  double idle_seconds = 75;       // between requests
  double write_seconds = 30;      // for a client to take what it has been sent
  double request_seconds = 3600;  // for an answer, from when it was accepted
  double drain_seconds = 30;      // for running answers after SIGTERM
  int worker_threads = 2;         // read JSON and encode prompts
};

}  // namespace tessera::server
