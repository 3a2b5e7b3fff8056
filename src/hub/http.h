// HTTP over libcurl: the settings every connection shares, and requests whose answer fits in memory. Proxies and
// the system's certificates as libcurl finds them (https_proxy, http_proxy, no_proxy). An HttpSession is used by one
// thread.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "hub/server_answers.h"
#include "hub/settings.h"

namespace tessera::hub {

struct HttpAnswer {
  long status = 0;    // 0: no answer
  std::string error;  // when there is none: what the network said
  Headers headers;
  std::string body;
};

inline constexpr double kLongPause = 10;  // seconds; longer ones are worth a warning

// Should the request be tried again after this answer?
bool is_passing_trouble(const HttpAnswer& answer);

// Seconds to wait before attempt `attempt` (1: the first repetition), with jitter; at least what Retry-After asks for.
double backoff_seconds(const HubSettings& settings, int attempt, const Headers& headers);

// Sleeps in short steps; what check() throws ends it.
void sleep_checking(double seconds, const std::function<void()>& check);

// "scheme://host:port" in lower case with the port written out; "" when `url` is not http(s).
std::string origin_of(const std::string& url);
// `location` as seen from `base`: absolute, http(s) only. "" when it is neither, or goes from https to http.
std::string follow(const std::string& base, const std::string& location);
// Percent-encodes all but letters, digits, "-_.~" and what `keep` holds.
std::string url_escape(std::string_view text, std::string_view keep = "");

// One libcurl handle with the settings every connection shares. Movable owner of a CURL*.
class CurlHandle {
 public:
  // `check` is called about ten times a second during a transfer; when it throws, the transfer is aborted.
  CurlHandle(const HubSettings& settings);
  ~CurlHandle();
  CurlHandle(const CurlHandle&) = delete;

  void* get() const { return curl_; }  // CURL*
  // Sends the token when `url` is of the endpoint's own origin, and to nobody else.
  void prepare(const std::string& url, int64_t range_begin, int64_t range_end);  // no range: 0, -1
  // What went wrong, after a transfer that failed with `code` (CURLcode).
  std::string error_text(int code) const;

 private:
  const HubSettings& settings_;
  void* curl_ = nullptr;
  void* header_list_ = nullptr;
  char error_[256] = {};
};

class HttpSession {
 public:
  // check(): called often while waiting; throws to stop.
  HttpSession(const HubSettings& settings, std::function<void()> check);

  enum class Method { kGet, kHead };
  // One request, no redirect followed, no repetition. Throws kCorrupt when the body is larger than max_body.
  HttpAnswer once(Method method, const std::string& url, int64_t max_body = int64_t{64} << 20);
  // The same, repeated with growing pauses while the trouble may pass.
  HttpAnswer patiently(Method method, const std::string& url, int64_t max_body = int64_t{64} << 20);

  const HubSettings& settings() const { return settings_; }
  void check() const { check_(); }

 private:
  const HubSettings& settings_;
  std::function<void()> check_;
  CurlHandle handle_;
};

}  // namespace tessera::hub
