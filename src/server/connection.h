// One client's connection: reads requests one after another, checks what can be checked before the body is read, and
// writes what their jobs answer. Lives on the I/O thread; internal to the server.
#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <chrono>
#include <memory>
#include <optional>
#include <set>

#include "server/exchange.h"
#include "server/routes.h"
#include "server/state.h"

namespace tessera::server {

class Connection;

// What connections share; owned by the server.
struct Shared {
  ServerState& state;
  boost::asio::io_context& io;
  boost::asio::thread_pool& workers;
  std::set<std::shared_ptr<Connection>> connections;
  int64_t open_requests = 0;  // of routes that generate
  int64_t bodies_bytes = 0;   // reserved for bodies
};

class Connection final : public Exchange, public std::enable_shared_from_this<Connection> {
 public:
  using Clock = std::chrono::steady_clock;

  Connection(Shared& shared, boost::asio::ip::tcp::socket socket);
  ~Connection() override;

  void start();
  // Called about once a second: ends what takes too long.
  void check_time(Clock::time_point now);
  // No further request is taken; an idle connection closes.
  void drain();
  void close();

  void respond(HttpResponse response) override;
  void begin_stream(const std::string& content_type) override;
  bool busy() const override { return writing_; }
  void write(std::string chunk) override;
  void finish_stream() override;

 private:
  enum class Phase { kIdle, kHead, kBody, kAnswering, kLingering, kClosed };

  void set_deadline(double seconds);
  void next_request();
  void watch();
  void on_watched(boost::system::error_code ec, size_t bytes);
  void on_half_closed();
  void give_up(const HttpError& why);
  void read_head();
  void parse_head();
  void on_head();
  void on_bad_head(const HttpError& error);
  void read_body();
  void on_body(boost::system::error_code ec);
  void take_head();
  void admit();
  void check_origin();
  void check_key();
  void reserve_body();
  bool preflight();
  void dispatch();
  void answer(std::unique_ptr<Job> job);
  void pump();
  void refuse(const HttpError& error, const Headers& more = {});
  void put(std::string bytes, bool last);
  void on_written(boost::system::error_code ec);
  void finish_request();
  void linger();
  std::string head(int status, const std::string& content_type, const Headers& headers, int64_t length) const;

  Shared& shared_;
  boost::asio::ip::tcp::socket socket_;
  boost::beast::flat_buffer buffer_;
  using Parser = boost::beast::http::request_parser<boost::beast::http::string_body>;
  std::optional<Parser> parser_;
  Phase phase_ = Phase::kIdle;
  Clock::time_point deadline_ = Clock::time_point::max();

  HttpRequest request_;
  RouteMatch match_;
  std::unique_ptr<Job> job_;
  uint64_t request_number_ = 0;  // a job's wake is for this request only
  Clock::time_point began_;
  int status_ = 0;  // of the response, once it is known
  int64_t reserved_ = 0;
  size_t lingered_ = 0;   // bytes dropped
  bool counted_ = false;  // in open_requests
  bool keep_alive_ = true, http_1_0_ = false, body_read_ = false;
  bool reading_ = false, writing_ = false, last_write_ = false, chunked_ = false, pumping_ = false, pump_again_ = false;
  std::string outgoing_;
};

}  // namespace tessera::server
