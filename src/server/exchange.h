// Between a connection and the job that answers its request. Everything here happens on the I/O thread.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "server/http.h"

namespace tessera::server {

// The connection's side. One respond(), or begin_stream(), writes and finish_stream().
class Exchange {
 public:
  virtual ~Exchange() = default;
  virtual void respond(HttpResponse response) = 0;
  virtual void begin_stream(const std::string& content_type) = 0;
  // A write is under way: what is given now would pile up, so a job waits for its next pump().
  virtual bool busy() const = 0;
  virtual void write(std::string chunk) = 0;  // REQUIRES !busy()
  virtual void finish_stream() = 0;           // REQUIRES !busy()
};

// A request that is being answered. Destroyed as soon as it is answered or its client has gone, which cancels it.
class Job {
 public:
  virtual ~Job() = default;
  // Called at first, whenever the job asked to be woken, and after each write.
  virtual void pump(Exchange& exchange) = 0;
};

// Makes the I/O thread pump the job soon; from any thread, also when the job is gone.
using Wake = std::function<void()>;

// A response that is known at once.
class ReadyJob final : public Job {
 public:
  explicit ReadyJob(HttpResponse response) : response_(std::move(response)) {}
  void pump(Exchange& exchange) override { exchange.respond(std::move(response_)); }

 private:
  HttpResponse response_;
};

}  // namespace tessera::server
