// What all routes share. Thread-safe.
#pragma once

#include <atomic>
#include <ctime>
#include <memory>
#include <mutex>
#include <string>

#include "api/service.h"
#include "server/metrics.h"
#include "server/options.h"
#include "server/response_store.h"

namespace tessera::server {

class ServerState {
 public:
  explicit ServerState(ServerOptions server_options)
      : options(std::move(server_options)), responses(options.stored_responses, options.stored_bytes) {}

  // Null while the model is being loaded.
  std::shared_ptr<Service> service() const {
    std::lock_guard lock(mutex_);
    return service_;
  }
  void set_service(std::shared_ptr<Service> service) {
    std::lock_guard lock(mutex_);
    service_ = std::move(service);
  }

  const ServerOptions options;
  const std::time_t started = std::time(nullptr);
  std::atomic<bool> draining{false};
  Metrics metrics;
  ResponseStore responses;

 private:
  mutable std::mutex mutex_;
  std::shared_ptr<Service> service_;
};

}  // namespace tessera::server
