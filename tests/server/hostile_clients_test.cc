// Clients that leave and clients that send nonsense, against the whole server: pages come back within a step, and every
// malformed request is refused with an error that clients understand.
#include <sys/socket.h>

#include <boost/asio/buffer.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/http.hpp>
#include <cstdlib>
#include <map>
#include <mutex>
#include <random>

#include "server/scripted_server.h"

namespace tessera::server {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::ip::tcp;

std::string post_bytes(const std::string& path, const OrderedJson& body) {
  const std::string text = body.dump();
  return fmt::format("POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{}", path, text.size(), text);
}

class Socket {
 public:
  explicit Socket(uint16_t port) { socket_.connect({asio::ip::address_v4::loopback(), port}); }

  void send(const std::string& bytes) {
    boost::system::error_code ignored;  // the server may have closed
    asio::write(socket_, asio::buffer(bytes), ignored);
  }
  void stop_sending() {
    boost::system::error_code ignored;
    socket_.shutdown(tcp::socket::shutdown_send, ignored);
  }
  // As a process that is killed: what is unread is lost, and the other side is told.
  void reset() {
    socket_.set_option(asio::socket_base::linger(true, 0));
    socket_.close();
  }
  void close() { socket_.close(); }
  std::string read_all() {
    std::string out;
    boost::system::error_code ignored;
    asio::read(socket_, asio::dynamic_buffer(out), ignored);
    return out;
  }

 private:
  asio::io_context io_;
  tcp::socket socket_{io_};
};

// Leaving
// ------------------------------------------------------------------------------------------------------------------

enum class Leave { kClose, kReset, kStopSending };

// An answer that lasts for minutes, if nobody ends it.
Script long_script() {
  Script script = tokenizer().encode("<|channel|>final<|message|>");
  script.resize(3800, tokenizer().encode("a").at(0));
  return script;
}

std::vector<std::string> long_requests(bool stream) {
  const OrderedJson messages = {{{"role", "user"}, {"content", "hi"}}};
  return {post_bytes("/v1/chat/completions", {{"messages", messages}, {"seed", 0}, {"stream", stream}, {"n", 2}}),
          post_bytes("/v1/completions", {{"prompt", "hi"}, {"seed", 0}, {"max_tokens", 3900}, {"stream", stream}}),
          post_bytes("/v1/responses", {{"input", "hi"}, {"seed", 0}, {"stream", stream}}),
          post_bytes("/v1/messages", {{"messages", messages}, {"max_tokens", 3900}, {"top_k", 1}, {"stream", stream}})};
}

class Leaving : public ScriptedServerTest {
 protected:
  // A step takes at least `pause`, so that an answer is still being made when its client leaves.
  void serve_slowly(std::chrono::milliseconds pause = std::chrono::milliseconds(15)) {
    serve({long_script()}, {}, [this, pause] {
      const EngineStats stats = service().stats();
      {
        std::lock_guard lock(mutex_);
        told_.push_back(stats);
      }
      std::this_thread::sleep_for(pause);
    });
  }

  void leave(Socket& client, Leave how) {
    if (how == Leave::kClose) client.close();
    if (how == Leave::kReset) client.reset();
    if (how == Leave::kStopSending) client.stop_sending();
  }

  bool answering(int64_t answers) {
    return comes_true([&] {
      const EngineStats stats = service().stats();
      return stats.running == answers && stats.pages_held > 0;
    });
  }

  // What the engine had told before each token that is made.
  std::vector<EngineStats> told() {
    std::lock_guard lock(mutex_);
    return told_;
  }

 private:
  std::mutex mutex_;
  std::vector<EngineStats> told_;
};

// The step that computes while the client is seen to leave may end; there is no other.
TEST_F(Leaving, PagesAreFreeAfterTheStepAtHand) {
  serve_slowly();
  int64_t answers = 0;
  for (bool stream : {false, true}) {
    for (const std::string& request : long_requests(stream)) {
      for (Leave how : {Leave::kClose, Leave::kReset, Leave::kStopSending}) {
        SCOPED_TRACE(request.substr(0, request.find("\r\n")) + (stream ? ", streamed, " : ", whole, ") +
                     std::to_string(static_cast<int>(how)));
        const int64_t samples = request.find("\"n\":2") != std::string::npos ? 2 : 1;
        service().cancelled_at = -1;
        Socket client(port());
        client.send(request);
        ASSERT_TRUE(answering(samples));
        leave(client, how);
        ASSERT_TRUE(comes_true([&] { return service().cancelled_at >= 0; })) << "nobody saw it leave";
        ASSERT_TRUE(comes_true([&] { return service().stats().running == 0; }));
        const EngineStats after = service().stats();
        EXPECT_EQ(after.pages_held, 0);
        EXPECT_LE(after.steps, service().cancelled_at + 1);
        EXPECT_EQ(after.cancelled, answers += samples);
        EXPECT_EQ(after.finished, 0);
        if (how != Leave::kStopSending || stream) continue;
        const std::string said = client.read_all();
        EXPECT_TRUE(said.starts_with("HTTP/1.1 400 ")) << said;
        EXPECT_NE(said.find("closed for sending"), std::string::npos) << said;
      }
    }
  }
}

// The same while another answer goes on, step after step.
TEST_F(Leaving, OthersGoOn) {
  serve_slowly();
  Socket stays(port());
  stays.send(long_requests(true)[0]);
  ASSERT_TRUE(answering(2));
  for (bool stream : {false, true}) {
    for (const std::string& request : long_requests(stream)) {
      const int64_t samples = request.find("\"n\":2") != std::string::npos ? 2 : 1;
      service().cancelled_at = -1;
      Socket client(port());
      client.send(request);
      ASSERT_TRUE(answering(2 + samples));
      client.close();
      ASSERT_TRUE(comes_true([&] { return service().cancelled_at >= 0; }));
      const int64_t seen = service().cancelled_at;
      ASSERT_TRUE(comes_true([&] { return service().stats().steps > seen + 3; }));
      // Step seen + 1 may be the one at hand; whatever is told of the step after it is without the one that left.
      for (const EngineStats& stats : told()) {
        if (stats.steps < seen + 2) continue;
        EXPECT_EQ(stats.running, 2) << "in step " << stats.steps << ", seen to leave at " << seen;
        break;
      }
    }
  }
  EXPECT_EQ(service().stats().finished, 0) << "the answer that stays has ended too early for this test";
}

// What is sent behind a request hides the client's end: too much of it ends the request.
TEST_F(Leaving, WhatIsSentBehindDoesNotHideIt) {
  serve_slowly();
  for (bool stream : {false, true}) {
    Socket client(port());
    client.send(long_requests(stream)[0]);
    ASSERT_TRUE(answering(2));
    client.send(std::string(1 << 20, 'x'));
    client.close();
    EXPECT_TRUE(comes_true([&] { return service().stats().running == 0; }));
    EXPECT_EQ(service().stats().finished, 0);
  }
}

// Nonsense
// ------------------------------------------------------------------------------------------------------------------

class Nonsense {
 public:
  explicit Nonsense(uint32_t seed) : random_(seed) {}

  std::string next() {
    static const OrderedJson kChat = {{"messages", {{{"role", "user"}, {"content", "hi"}}}}, {"seed", 0}};
    static const std::string kRequests[] = {
        post_bytes("/v1/chat/completions", kChat),
        post_bytes("/v1/messages", {{"messages", kChat["messages"]}, {"max_tokens", 9}, {"top_k", 1}}),
        post_bytes("/tokenize", {{"prompt", "hi"}}) + post_bytes("/v1/responses", {{"input", "hi"}, {"seed", 0}}),
        "POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n6;x=y\r\n{\"prom\r\na\r\npt\": "
        "\"hi\"}\r\n"
        "0\r\nA: b\r\n\r\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /metrics HTTP/1.1\r\nHost: x\r\nAuthorization: Basic dTpw\r\nOrigin: http://x\r\n\r\n",
        "DELETE /v1/responses/resp_1 HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
        "GET /v1/models/%6d HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.0\r\n\r\n"};
    std::string text = kRequests[random_() % std::size(kRequests)];
    for (size_t n = random_() % 4; n > 0; --n) change(text);
    return text;
  }

 private:
  void change(std::string& text) {
    static const std::string kPieces[] = {"\r\n",
                                          "\n",
                                          "\r",
                                          "\r\n\r\n",
                                          "\r\n ",
                                          "\r\n\t",
                                          " ",
                                          ":",
                                          std::string(1, '\0'),
                                          "\xff",
                                          "%00",
                                          "Content-Length: 5\r\n",
                                          "Content-Length: 18446744073709551616\r\n",
                                          "Transfer-Encoding: chunked\r\n",
                                          "Transfer-Encoding: xchunked\r\n",
                                          "Host: y\r\n",
                                          "Expect: 100-continue\r\n",
                                          "0\r\n\r\n",
                                          "ffffffffffffffff\r\n",
                                          "5;\n\r\n",
                                          "\"",
                                          "[[[[[[[[",
                                          "1e999",
                                          "HTTP/1.1",
                                          std::string(20000, 'a')};
    const size_t at = random_() % (text.size() + 1), rest = text.size() - at;
    switch (random_() % 5) {
      case 0:
        if (rest > 0) text[at] = static_cast<char>(random_());
        break;
      case 1:
        text.erase(at, std::min<size_t>(rest, 1 + random_() % 20));
        break;
      case 2:
        text.insert(at, text.substr(at, std::min<size_t>(rest, 1 + random_() % 40)));
        break;
      case 3:
        text.resize(at);
        break;
      default:
        text.insert(at, kPieces[random_() % std::size(kPieces)]);
    }
  }

  std::mt19937 random_;
};

// Empty, or what is wrong with the bytes of a connection's responses. Counts statuses.
std::string check_responses(const std::string& bytes, std::map<unsigned, int>& statuses) {
  size_t at = 0;
  for (bool closed = false; at < bytes.size();) {
    http::response_parser<http::string_body> parser;
    boost::system::error_code ec;
    parser.eager(true);
    at += parser.put(asio::buffer(bytes.data() + at, bytes.size() - at), ec);
    if (ec || !parser.is_done()) return "a response is malformed: " + ec.message();
    const auto& response = parser.get();
    const unsigned status = response.result_int();
    ++statuses[status];
    if (status == 100) continue;
    if (closed) return "a response after one that closes";
    closed = !response.keep_alive();
    if (status >= 500) return fmt::format("status {}", status);
    if (status < 400) continue;
    const OrderedJson body = OrderedJson::parse(response.body(), nullptr, /*allow_exceptions=*/false);
    if (!body.is_object() || !body["error"].is_object() || !body["error"]["message"].is_string())
      return fmt::format("status {} without an error object", status);
  }
  return {};
}

// TESSERA_NONSENSE_REQUESTS: how many.
TEST_F(ScriptedServerTest, NonsenseIsRefused) {
  const char* given = std::getenv("TESSERA_NONSENSE_REQUESTS");
  const size_t count = given ? std::strtoul(given, nullptr, 10) : 3000;
  serve({tokenizer().encode("<|channel|>final<|message|>hi")}, {.header_seconds = 5, .body_seconds = 5});
  std::map<unsigned, int> statuses;
  Nonsense nonsense(1);
  for (size_t i = 0; i < count; ++i) {
    const std::string sent = nonsense.next();
    Socket client(port());
    client.send(sent);
    client.stop_sending();
    const std::string said = client.read_all();
    ASSERT_EQ(check_responses(said, statuses), "")
        << "sent: " << OrderedJson(sent).dump(-1, ' ', true, OrderedJson::error_handler_t::replace)
        << "\nsaid: " << said;
  }
  for (unsigned status : {200u, 400u, 404u, 405u, 431u}) EXPECT_GT(statuses[status], 0) << status;
  Socket client(port());
  client.send("GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  EXPECT_TRUE(client.read_all().starts_with("HTTP/1.1 200 "));
}

}  // namespace
}  // namespace tessera::server
