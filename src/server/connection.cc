#include "server/connection.h"

#include <boost/asio/post.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/http/read.hpp>

#include "core/log.h"

namespace tessera::server {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using boost::system::error_code;

namespace {

constexpr size_t kWatchBytes = 4096;
constexpr size_t kMaxPipelined = 64 << 10;  // bytes of further requests that are kept while one is answered
constexpr int kSendBuffer = 128 << 10;      // the kernel's, so that slow readers do not fill its memory
constexpr double kLingerSeconds = 2;
constexpr size_t kMaxLingerBytes = 16 << 20;
constexpr int kClientGone = 499;  // as nginx calls it, in log and metrics

std::string_view view(boost::beast::string_view s) {
  return {s.data(), s.size()};
}

// Whether a field of the head at hand goes on in a second line, which readers understand differently. The parser has
// taken whole fields only, so both lines are there.
bool has_folded_field(const boost::beast::flat_buffer& buffer) {
  const std::string_view all(static_cast<const char*>(buffer.data().data()), buffer.size());
  const std::string_view head = all.substr(0, all.find("\r\n\r\n"));
  return head.find("\n ") != head.npos || head.find("\n\t") != head.npos;
}

}  // namespace

// The buffer holds a head, what is sent behind a request, or a chunk's line or trailer: none of them may be endless.
Connection::Connection(Shared& shared, asio::ip::tcp::socket socket)
    : shared_(shared),
      socket_(std::move(socket)),
      buffer_(2 * kMaxPipelined + static_cast<size_t>(shared.state.options.max_header_bytes)) {
  error_code ignored;
  socket_.set_option(asio::ip::tcp::no_delay(true), ignored);
  socket_.set_option(asio::socket_base::send_buffer_size(kSendBuffer), ignored);
}

Connection::~Connection() = default;

void Connection::set_deadline(double seconds) {
  deadline_ = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

void Connection::start() {
  next_request();
}

void Connection::check_time(Clock::time_point now) {
  if (now < deadline_) return;
  deadline_ = Clock::time_point::max();
  if (phase_ == Phase::kHead || phase_ == Phase::kBody) {
    error_code ignored;
    socket_.cancel(ignored);  // the read at hand ends
    keep_alive_ = false;
    return refuse(HttpError(408, "the request did not arrive in time"));
  }
  close();
}

void Connection::drain() {
  keep_alive_ = false;
  if (phase_ == Phase::kIdle) close();
}

void Connection::close() {
  if (phase_ == Phase::kClosed) return;
  const bool answering = phase_ == Phase::kAnswering;
  phase_ = Phase::kClosed;
  job_.reset();  // cancels
  if (answering && status_ == 0) status_ = kClientGone;
  finish_request();
  error_code ignored;
  socket_.close(ignored);
  shared_.connections.erase(shared_from_this());
  shared_.state.metrics.set_connections(static_cast<int64_t>(shared_.connections.size()));
}

// Reading
// ------------------------------------------------------------------------------------------------------------------

void Connection::next_request() {
  request_ = {};
  match_ = {};
  status_ = 0;
  body_read_ = chunked_ = false;
  ++request_number_;
  if (shared_.state.draining) return close();
  if (buffer_.size() > 0) {
    if (!reading_) return read_head();
    phase_ = Phase::kIdle;  // the read under way is ended first
    error_code ignored;
    socket_.cancel(ignored);
    return;
  }
  phase_ = Phase::kIdle;
  set_deadline(shared_.state.options.idle_seconds);
  watch();
}

// Reads ahead: notices the next request, or that the client has gone.
void Connection::watch() {
  if (reading_ || buffer_.size() >= kMaxPipelined) return;
  reading_ = true;
  socket_.async_read_some(buffer_.prepare(kWatchBytes),
                          [self = shared_from_this()](error_code ec, size_t bytes) { self->on_watched(ec, bytes); });
}

void Connection::on_watched(error_code ec, size_t bytes) {
  reading_ = false;
  if (phase_ == Phase::kClosed) return;
  if (ec == asio::error::operation_aborted && phase_ == Phase::kIdle && buffer_.size() > 0) return read_head();
  if (ec == asio::error::eof && phase_ == Phase::kAnswering) return on_half_closed();
  if (ec) return close();
  if (phase_ == Phase::kLingering)  // what it still sends is dropped
    return (lingered_ += bytes) < kMaxLingerBytes ? watch() : close();
  buffer_.commit(bytes);
  if (phase_ == Phase::kIdle) return read_head();
  if (buffer_.size() < kMaxPipelined) return watch();
  // What is not read hides that the client has gone.
  if (phase_ == Phase::kAnswering && match_.route && match_.route->generates)
    give_up(HttpError(413, fmt::format("more than {} bytes were sent before the answer", kMaxPipelined)));
}

// The client sends no more. One that waits for a model has gone, most likely, and is not waited for; the few that only
// closed their side are told.
void Connection::on_half_closed() {
  keep_alive_ = false;
  const bool generates = match_.route && match_.route->generates;
  if (last_write_ || (status_ == 0 && !generates)) return;
  give_up(HttpError(400, "the connection was closed for sending before the answer came; keep it open until then"));
}

// Ends a request whose client does not wait for its answer.
void Connection::give_up(const HttpError& why) {
  if (status_ != 0) return last_write_ ? void() : close();
  ++request_number_;  // a job that is being made is dropped
  job_.reset();       // cancels
  keep_alive_ = false;
  refuse(why);
  if (phase_ != Phase::kClosed) status_ = kClientGone;
}

void Connection::read_head() {
  const ServerOptions& options = shared_.state.options;
  phase_ = Phase::kHead;
  set_deadline(options.header_seconds);
  parser_.emplace();
  parser_->header_limit(static_cast<uint32_t>(options.max_header_bytes));
  parser_->body_limit(static_cast<uint64_t>(options.max_body_bytes));
  began_ = Clock::now();
  parse_head();
}

// Takes what has arrived, and reads on until the head is whole.
void Connection::parse_head() {
  error_code ec = http::error::need_more;
  if (has_folded_field(buffer_)) return on_bad_head(HttpError(400, "a header field is folded over several lines"));
  if (buffer_.size() > 0) buffer_.consume(parser_->put(buffer_.data(), ec));
  if (!ec) return on_head();
  const int64_t max_body = shared_.state.options.max_body_bytes;
  if (ec == http::error::header_limit) return on_bad_head(HttpError(431, "the request's head is too large"));
  if (ec == http::error::body_limit)
    return on_bad_head(HttpError(413, fmt::format("the body is larger than {} bytes", max_body), "Content-Length"));
  if (ec == http::error::bad_content_length) return on_bad_head(HttpError(400, ec.message(), "Content-Length"));
  if (ec == http::error::bad_transfer_encoding) return on_bad_head(HttpError(400, ec.message(), "Transfer-Encoding"));
  if (ec == http::error::bad_version) return on_bad_head(HttpError(400, "only HTTP/1.0 and 1.1 are spoken here"));
  if (ec != http::error::need_more)
    return on_bad_head(HttpError(400, fmt::format("not a well-formed HTTP request: {}", ec.message())));
  socket_.async_read_some(buffer_.prepare(kWatchBytes), [self = shared_from_this()](error_code failed, size_t bytes) {
    if (self->phase_ != Phase::kHead) return;
    self->buffer_.commit(bytes);
    if (failed == asio::error::eof) return self->on_bad_head(HttpError(400, "the request ends within its head"));
    failed ? self->close() : self->parse_head();
  });
}

void Connection::on_bad_head(const HttpError& error) {
  request_.id = random_id("req_");
  keep_alive_ = false;
  refuse(error);
}

void Connection::on_head() {
  request_.id = random_id("req_");
  try {
    take_head();
    if (preflight()) return;
    admit();
  } catch (const HttpError& e) {
    keep_alive_ = keep_alive_ && parser_->is_done();
    Headers more;
    if (!match_.allowed.empty()) more.emplace_back("Allow", match_.allowed);
    if (e.status() == 401)
      more.emplace_back("WWW-Authenticate", request_.path == "/" ? "Basic realm=\"tessera\"" : "Bearer");
    return refuse(e, more);
  }
  if (parser_->is_done()) return on_body({});
  phase_ = Phase::kBody;
  const double megabytes = static_cast<double>(parser_->content_length().value_or(0)) / 1e6;
  set_deadline(shared_.state.options.body_seconds * (1 + megabytes));
  if (!equal_ignoring_case(request_.header("expect"), "100-continue")) return read_body();
  outgoing_ = "HTTP/1.1 100 Continue\r\n\r\n";
  asio::async_write(socket_, asio::buffer(outgoing_), [self = shared_from_this()](error_code failed, size_t) {
    if (self->phase_ != Phase::kBody) return;
    failed ? self->close() : self->read_body();
  });
}

// The head as routes see it, and the shapes in which a proxy and this server could disagree.
void Connection::take_head() {
  const auto& head = parser_->get();
  request_.method = std::string(view(head.method_string()));
  const std::string target(view(head.target()));
  const size_t question = target.find('?');
  request_.path = url_decode(target.substr(0, question));
  if (question != std::string::npos) request_.query = target.substr(question + 1);
  http_1_0_ = head.version() < 11;
  keep_alive_ = keep_alive_ && head.keep_alive();
  int hosts = 0, lengths = 0, encodings = 0;
  for (const auto& field : head) {
    std::string name(view(field.name_string()));
    for (char& c : name) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
    hosts += name == "host";
    lengths += name == "content-length";
    encodings += name == "transfer-encoding";
    request_.headers.emplace_back(std::move(name), std::string(view(field.value())));
  }
  auto malformed = [&](int status, const char* field, const char* why) {
    keep_alive_ = false;
    throw HttpError(status, why, field);
  };
  if (target.empty() || (target[0] != '/' && target != "*")) malformed(400, "", "the request's target must be a path");
  if (hosts > 1 || (hosts == 0 && !http_1_0_)) malformed(400, "Host", "expected one Host header");
  if (request_.header("host").find_first_of(" \t") != std::string_view::npos)
    malformed(400, "Host", "expected one host in the Host header");
  if (lengths > 1 || encodings > 1 || (lengths > 0 && encodings > 0))
    malformed(400, encodings > 0 ? "Transfer-Encoding" : "Content-Length",
              "expected one of Content-Length and Transfer-Encoding, once");
  if (request_.header("content-length").find_first_not_of("0123456789") != std::string_view::npos)
    malformed(400, "Content-Length", "Content-Length: expected one number");
  if (encodings > 0 && (http_1_0_ || !equal_ignoring_case(request_.header("transfer-encoding"), "chunked")))
    malformed(400, "Transfer-Encoding", "Transfer-Encoding: only chunked is understood, in HTTP/1.1");
  const std::string_view expect = request_.header("expect");
  if (!expect.empty() && !equal_ignoring_case(expect, "100-continue"))
    malformed(417, "Expect", "Expect: only 100-continue");
  if (const std::string_view coding = request_.header("content-encoding");
      !coding.empty() && !equal_ignoring_case(coding, "identity"))
    malformed(415, "Content-Encoding", "Content-Encoding: send the body uncompressed");
}

bool Connection::preflight() {
  if (request_.method != "OPTIONS" || request_.header("access-control-request-method").empty()) return false;
  check_origin();
  keep_alive_ = keep_alive_ && parser_->is_done();
  respond({.status = 204,
           .content_type = "",
           .headers = {{"Access-Control-Allow-Methods", "GET, POST, DELETE"},
                       {"Access-Control-Allow-Headers", "authorization, content-type, x-api-key, anthropic-version"},
                       {"Access-Control-Max-Age", "86400"}}});
  return true;
}

// All that can be refused before the body is read.
void Connection::admit() {
  ServerState& state = shared_.state;
  match_ = find_route(request_.method, request_.path);
  check_origin();
  if (!match_.route || !match_.route->open) check_key();
  if (!match_.route) {
    if (!match_.allowed.empty()) throw HttpError(405, "this path takes " + match_.allowed);
    throw HttpError(404, fmt::format("Invalid URL ({} {})", request_.method, request_.path), {}, "unknown_url");
  }
  request_.argument = match_.argument;
  const Route& route = *match_.route;
  auto turn_away = [&](int status, const char* why, const char* message) {
    HttpError error(status, message, {}, why);
    error.retry_after = 1;
    throw error;
  };
  if (route.needs_model && state.draining) turn_away(503, "draining", "the server is shutting down");
  if (route.needs_model && !state.service()) turn_away(503, "loading", "the model is being loaded");
  if (route.generates) {
    if (shared_.open_requests >= state.options.max_open_requests)
      turn_away(429, "requests", "too many requests at once; try again later");
    ++shared_.open_requests;
    counted_ = true;
  }
  reserve_body();
}

// A page of another site must not use a browser to reach this server.
void Connection::check_origin() {
  const std::string_view origin = request_.header("origin");
  if (origin.empty()) return;
  for (const std::string& allowed : shared_.state.options.cors_origins)
    if (allowed == "*" || equal_ignoring_case(allowed, origin)) return;
  const size_t host = origin.find("://");
  if (host != std::string_view::npos && equal_ignoring_case(origin.substr(host + 3), request_.header("host"))) return;
  throw HttpError(403, "requests from pages of other sites are refused; --cors-origin allows one");
}

void Connection::check_key() {
  const std::vector<std::string>& keys = shared_.state.options.api_keys;
  if (keys.empty()) return;
  std::string given(request_.header("x-api-key"));
  const std::string_view authorization = request_.header("authorization");
  const size_t space = authorization.find(' ');
  const std::string_view scheme = authorization.substr(0, space);
  const std::string_view rest = space == std::string_view::npos ? "" : authorization.substr(space + 1);
  if (equal_ignoring_case(scheme, "bearer")) given = rest;
  if (equal_ignoring_case(scheme, "basic")) {  // a browser's way: the key is the password
    const std::string decoded = base64_decode(rest);
    given =
        decoded.substr(std::min(decoded.size(), decoded.find(':') == std::string::npos ? 0 : decoded.find(':') + 1));
  }
  bool right = false;
  for (const std::string& key : keys) right |= equal_in_constant_time(given, key);
  if (right) return;
  throw HttpError(401, given.empty() ? "You didn't provide an API key: Authorization: Bearer KEY" : "Incorrect API key",
                  {}, "invalid_api_key");
}

void Connection::reserve_body() {
  const ServerOptions& options = shared_.state.options;
  const bool chunked = parser_->chunked();
  const int64_t length = chunked ? options.max_body_bytes : static_cast<int64_t>(parser_->content_length().value_or(0));
  if (length > options.max_body_bytes) {
    keep_alive_ = false;
    throw HttpError(413, fmt::format("the body is larger than {} bytes", options.max_body_bytes));
  }
  if (shared_.bodies_bytes + length > options.max_bodies_bytes) {
    HttpError error(429, "too many large requests at once; try again later", {}, "memory");
    error.retry_after = 1;
    throw error;
  }
  reserved_ = length;
  shared_.bodies_bytes += length;
}

void Connection::read_body() {
  http::async_read(socket_, buffer_, *parser_,
                   [self = shared_from_this()](error_code ec, size_t) { self->on_body(ec); });
}

void Connection::on_body(error_code ec) {
  if (phase_ != Phase::kBody && phase_ != Phase::kHead) return;
  if (ec) {
    keep_alive_ = false;
    if (ec == http::error::body_limit)
      return refuse(
          HttpError(413, fmt::format("the body is larger than {} bytes", shared_.state.options.max_body_bytes)));
    if (ec == http::error::buffer_overflow)
      return refuse(HttpError(400, "a line between the body's chunks, or what follows them, is too long"));
    if (ec == http::error::partial_message) return refuse(HttpError(400, "the request ends before its body does"));
    if (ec.category() != http::make_error_code(http::error::bad_chunk).category()) return close();
    return refuse(HttpError(400, fmt::format("not a well-formed HTTP request: {}", ec.message())));
  }
  body_read_ = true;
  request_.body = std::move(parser_->get().body());
  dispatch();
}

// Answering
// ----------------------------------------------------------------------------------------------------------------

void Connection::dispatch() {
  phase_ = Phase::kAnswering;
  deadline_ = Clock::time_point::max();
  watch();
  if (phase_ == Phase::kClosed) return;
  if (shared_.state.options.log_bodies) log::info("{} body {}", request_.id, request_.body);
  std::weak_ptr<Connection> weak = weak_from_this();
  asio::io_context& io = shared_.io;
  const uint64_t number = request_number_;
  Wake wake = [weak, &io, number] {
    asio::post(io, [weak, number] {
      auto self = weak.lock();
      if (self && self->request_number_ == number) self->pump();
    });
  };
  auto call = std::make_shared<RouteCall>(
      RouteCall{shared_.state, shared_.state.service(), std::move(request_), std::move(wake)});
  request_.path = call->request.path;
  request_.method = call->request.method;
  request_.id = call->request.id;
  request_.headers = call->request.headers;  // of the origin, for the response
  const Route* route = match_.route;
  asio::post(shared_.workers, [weak, &io, number, call, route] {
    auto job = std::make_shared<std::unique_ptr<Job>>();
    try {
      *job = route->handle(*call);
    } catch (const std::exception& e) {
      const HttpError error = to_http_error(e);
      if (error.status() >= 500) log::error("{} {}: {}", route->path, call->request.id, e.what());
      if (error.retry_after > 0) call->state.metrics.count_refused(error.code());
      *job = std::make_unique<ReadyJob>(error_response(route->dialect, error));
    }
    asio::post(io, [weak, number, job] {
      auto self = weak.lock();
      if (self && self->request_number_ == number && self->phase_ == Phase::kAnswering) self->answer(std::move(*job));
    });
  });
}

void Connection::answer(std::unique_ptr<Job> job) {
  shared_.bodies_bytes -= std::exchange(reserved_, 0);
  job_ = std::move(job);
  pump();
}

// A job may write within its pump, and be woken while it does.
void Connection::pump() {
  if (!job_ || phase_ != Phase::kAnswering) return;
  if (pumping_) {
    pump_again_ = true;
    return;
  }
  auto self = shared_from_this();
  pumping_ = true;
  do {
    pump_again_ = false;
    try {
      job_->pump(*this);
    } catch (const std::exception& e) {
      log::error("{} {}: {}", request_.path, request_.id, e.what());
      if (status_ == 0 && !writing_) {
        respond(error_response(match_.route->dialect, to_http_error(e)));
      } else {
        pumping_ = false;
        return close();
      }
    }
  } while (pump_again_ && job_ && phase_ == Phase::kAnswering);
  pumping_ = false;
  if (last_write_ || phase_ != Phase::kAnswering) job_.reset();
}

void Connection::refuse(const HttpError& error, const Headers& more) {
  if (error.retry_after > 0) shared_.state.metrics.count_refused(error.code());
  HttpResponse response = error_response(match_.route ? match_.route->dialect : Dialect::kOpenAi, error);
  response.headers.insert(response.headers.end(), more.begin(), more.end());
  phase_ = Phase::kAnswering;
  respond(std::move(response));
}

std::string Connection::head(int status, const std::string& content_type, const Headers& headers,
                             int64_t length) const {
  std::string out = fmt::format("HTTP/1.1 {} {}\r\nServer: tessera\r\nX-Content-Type-Options: nosniff\r\n", status,
                                status_text(status));
  if (!content_type.empty()) out += "Content-Type: " + content_type + "\r\n";
  if (!request_.id.empty()) out += "x-request-id: " + request_.id + "\r\n";
  for (const auto& [name, value] : headers) out += name + ": " + value + "\r\n";
  const std::string_view origin = request_.header("origin");
  for (const std::string& allowed : shared_.state.options.cors_origins) {
    if (origin.empty() || (allowed != "*" && !equal_ignoring_case(allowed, origin))) continue;
    out += "Access-Control-Allow-Origin: " + (allowed == "*" ? "*" : std::string(origin)) + "\r\nVary: Origin\r\n";
    break;
  }
  if (length >= 0 && status != 204) out += fmt::format("Content-Length: {}\r\n", length);
  if (length < 0 && chunked_) out += "Transfer-Encoding: chunked\r\n";
  if (!keep_alive_) out += "Connection: close\r\n";
  if (keep_alive_ && http_1_0_) out += "Connection: keep-alive\r\n";
  return out + "\r\n";
}

void Connection::respond(HttpResponse response) {
  status_ = response.status;
  std::string bytes =
      head(response.status, response.content_type, response.headers, static_cast<int64_t>(response.body.size()));
  if (request_.method != "HEAD") bytes += response.body;
  put(std::move(bytes), true);
}

void Connection::begin_stream(const std::string& content_type) {
  status_ = 200;
  chunked_ = !http_1_0_;
  if (http_1_0_) keep_alive_ = false;
  outgoing_ = head(200, content_type, {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}}, -1);
}

void Connection::write(std::string chunk) {
  if (chunk.empty()) return;
  std::string bytes = std::exchange(outgoing_, {});
  bytes += chunked_ ? fmt::format("{:x}\r\n{}\r\n", chunk.size(), chunk) : chunk;
  put(std::move(bytes), false);
}

void Connection::finish_stream() {
  put(std::exchange(outgoing_, {}) + (chunked_ ? "0\r\n\r\n" : ""), true);
}

void Connection::put(std::string bytes, bool last) {
  if (phase_ == Phase::kClosed) return;
  outgoing_ = std::move(bytes);
  writing_ = true;
  last_write_ = last;
  set_deadline(shared_.state.options.write_seconds);
  asio::async_write(socket_, asio::buffer(outgoing_),
                    [self = shared_from_this()](error_code ec, size_t) { self->on_written(ec); });
}

void Connection::on_written(error_code ec) {
  writing_ = false;
  outgoing_.clear();
  if (phase_ == Phase::kClosed) return;
  if (ec) return close();
  deadline_ = Clock::time_point::max();
  if (!last_write_) return pump();
  last_write_ = false;
  job_.reset();
  finish_request();
  keep_alive_ ? next_request() : linger();
}

// What a request held, and its line in log and metrics.
void Connection::finish_request() {
  shared_.bodies_bytes -= std::exchange(reserved_, 0);
  if (std::exchange(counted_, false)) --shared_.open_requests;
  if (status_ == 0) return;
  shared_.state.metrics.count_http(match_.route ? match_.route->path : "other", status_);
  log::info("{} {} {} {} {:.1f} ms", request_.id, request_.method, request_.path, status_,
            std::chrono::duration<double, std::milli>(Clock::now() - began_).count());
  status_ = 0;
}

// Closing at once could destroy a response that the client, still sending, has not read.
void Connection::linger() {
  error_code ignored;
  socket_.shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
  phase_ = Phase::kLingering;
  set_deadline(kLingerSeconds);
  buffer_.consume(buffer_.size());
  watch();
}

}  // namespace tessera::server
