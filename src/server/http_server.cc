#include "server/http_server.h"

#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <csignal>

#include "core/error.h"
#include "core/log.h"
#include "server/connection.h"

namespace tessera::server {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

namespace {

constexpr auto kTick = std::chrono::milliseconds(500);  // how often time limits are checked
constexpr auto kAcceptPause = std::chrono::milliseconds(50);

// A connection is a descriptor, and some are for other things.
void raise_descriptor_limit(int64_t connections) {
  rlimit limit{};
  const auto wanted = static_cast<rlim_t>(connections + 256);
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted) return;
  limit.rlim_cur = limit.rlim_max == RLIM_INFINITY ? wanted : std::min(wanted, limit.rlim_max);
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur < wanted)
    log::warn("only {} open files are allowed; more connections than that wait (ulimit -n)", limit.rlim_cur);
}

}  // namespace

struct HttpServer::Impl {
  explicit Impl(ServerState& server_state)
      : state(server_state), workers(static_cast<size_t>(server_state.options.worker_threads)) {
    listen();
    accept();
    tick();
  }

  ~Impl() {
    workers.stop();
    workers.join();
  }

  void listen() {
    const ServerOptions& options = state.options;
    error_code ec;
    tcp::resolver resolver(io);
    const auto found = resolver.resolve(options.host, std::to_string(options.port), tcp::resolver::passive, ec);
    if (ec || found.empty())
      fail(ErrorCode::kInvalidArgument, "--host {}: {}; give an address of this machine, such as 127.0.0.1 or 0.0.0.0",
           options.host, ec.message());
    const tcp::endpoint endpoint = *found.begin();
    acceptor.open(endpoint.protocol(), ec);
    if (!ec) acceptor.set_option(tcp::acceptor::reuse_address(true), ec);
    if (!ec) acceptor.bind(endpoint, ec);
    if (!ec) acceptor.listen(1024, ec);
    if (ec == asio::error::address_in_use)
      fail(ErrorCode::kIo, "port {} of {} is taken by another program; stop it or give another --port", options.port,
           options.host);
    if (ec) fail(ErrorCode::kIo, "cannot listen on {} port {}: {}", options.host, options.port, ec.message());
    raise_descriptor_limit(options.max_connections);
  }

  void accept() {
    acceptor.async_accept([this](error_code ec, tcp::socket socket) {
      if (!acceptor.is_open()) return;
      if (ec) {  // out of descriptors, most likely: some will be free soon
        pause.expires_after(kAcceptPause);
        pause.async_wait([this](error_code stopped) {
          if (!stopped) accept();
        });
        return;
      }
      add(std::move(socket));
      accept();
    });
  }

  void add(tcp::socket socket) {
    if (static_cast<int64_t>(shared.connections.size()) >= state.options.max_connections) {
      state.metrics.count_refused("connections");
      static constexpr std::string_view kFull =
          "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
      error_code ignored;
      socket.non_blocking(true, ignored);
      socket.write_some(asio::buffer(kFull), ignored);
      return;
    }
    auto connection = std::make_shared<Connection>(shared, std::move(socket));
    shared.connections.insert(connection);
    state.metrics.set_connections(static_cast<int64_t>(shared.connections.size()));
    connection->start();
  }

  void tick() {
    timer.expires_after(kTick);
    timer.async_wait([this](error_code ec) {
      if (ec) return;
      const auto now = Connection::Clock::now();
      const auto all = shared.connections;  // closing takes one out
      for (const auto& connection : all) connection->check_time(now);
      if (state.draining && now >= drain_deadline) {
        for (const auto& connection : all) connection->close();
      }
      if (state.draining && shared.connections.empty()) return io.stop();
      tick();
    });
  }

  // On the I/O thread.
  void drain() {
    if (state.draining.exchange(true)) {  // asked again: at once
      drain_deadline = Connection::Clock::now();
    } else {
      log::info("draining: {} connections", shared.connections.size());
      drain_deadline = Connection::Clock::now() + std::chrono::duration_cast<Connection::Clock::duration>(
                                                      std::chrono::duration<double>(state.options.drain_seconds));
      error_code ignored;
      acceptor.close(ignored);
    }
    const auto all = shared.connections;
    for (const auto& connection : all) connection->drain();
    if (shared.connections.empty()) io.stop();
  }

  void wait_for_signal() {
    signals.async_wait([this](error_code ec, int number) {
      if (ec) return;
      int none = 0;
      signal.compare_exchange_strong(none, number);
      if (!state.service()) std::_Exit(number == SIGINT ? 130 : 0);  // still loading: there is nothing to finish
      drain();
      wait_for_signal();
    });
  }

  ServerState& state;
  asio::io_context io{1};
  asio::thread_pool workers;
  tcp::acceptor acceptor{io};
  asio::steady_timer timer{io}, pause{io};
  asio::signal_set signals{io};
  std::atomic<int> signal{0};
  Connection::Clock::time_point drain_deadline = Connection::Clock::time_point::max();
  Shared shared{state, io, workers, {}};
};

HttpServer::HttpServer(ServerState& state) : impl_(std::make_unique<Impl>(state)) {}
HttpServer::~HttpServer() = default;

uint16_t HttpServer::port() const {
  return impl_->acceptor.local_endpoint().port();
}

void HttpServer::run() {
  impl_->io.run();
}

void HttpServer::drain() {
  asio::post(impl_->io, [this] { impl_->drain(); });
}

void HttpServer::drain_on_signals() {
  impl_->signals.add(SIGINT);
  impl_->signals.add(SIGTERM);
  impl_->wait_for_signal();
}

int HttpServer::signal() const {
  return impl_->signal;
}

}  // namespace tessera::server
