// What /metrics tells Prometheus. Thread-safe; the observer's part is called on the engine's thread.
#pragma once

#include <memory>
#include <string>

#include "api/service.h"

namespace tessera::server {

class Metrics final : public ServiceObserver {
 public:
  Metrics();
  ~Metrics() override;

  void on_first_token(double since_submission, double queued) override;
  void on_next_token(double since_last) override;
  void on_end(const AnswerEnd& end) override;
  void count_http(const char* route, int status);
  void count_refused(const std::string& why);  // the error's code; also "connections"
  void set_connections(int64_t open);

  // The text format; `service` may be null.
  std::string text(const Service* service) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tessera::server
