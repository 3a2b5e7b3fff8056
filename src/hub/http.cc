#include "hub/http.h"

#include <curl/curl.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <exception>
#include <random>
#include <thread>

#include "core/error.h"
#include "core/log.h"
#include "hub/hub_id.h"

namespace tessera::hub {

namespace {

constexpr int64_t kMaxHeaderBytes = int64_t{1} << 20;
constexpr int kSilentAttempts = 4;  // of a server that does not answer at all: probably there is no network

struct Receiving {
  HttpAnswer* answer;
  const std::function<void()>* check;
  int64_t max_body;
  int64_t header_bytes = 0;
  bool too_big = false;
  std::exception_ptr stopped;
};

size_t on_header(char* data, size_t size, size_t count, void* user) {
  auto& in = *static_cast<Receiving*>(user);
  std::string_view line(data, size * count);
  in.header_bytes += static_cast<int64_t>(line.size());
  if (in.header_bytes > kMaxHeaderBytes) return 0;
  if (line.starts_with("HTTP/")) in.answer->headers.clear();
  add_header_line(in.answer->headers, line);
  return line.size();
}

size_t on_body(char* data, size_t size, size_t count, void* user) {
  auto& in = *static_cast<Receiving*>(user);
  if (static_cast<int64_t>(in.answer->body.size() + size * count) > in.max_body) {
    in.too_big = true;
    return 0;
  }
  in.answer->body.append(data, size * count);
  return size * count;
}

int on_progress(void* user, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  auto& in = *static_cast<Receiving*>(user);
  try {
    (*in.check)();
    return 0;
  } catch (...) {
    in.stopped = std::current_exception();
    return 1;
  }
}

// A part of an address, or "".
std::string url_part(CURLU* url, CURLUPart part, unsigned flags = 0) {
  char* text = nullptr;
  if (curl_url_get(url, part, &text, flags) != CURLUE_OK) return "";
  std::string out = text;
  curl_free(text);
  return out;
}

struct Url {
  CURLU* handle = curl_url();
  ~Url() { curl_url_cleanup(handle); }
  bool set(const std::string& text) { return curl_url_set(handle, CURLUPART_URL, text.c_str(), 0) == CURLUE_OK; }
};

}  // namespace

bool is_passing_trouble(const HttpAnswer& answer) {
  return answer.status == 0 || answer.status == 408 || answer.status == 429 || answer.status >= 500;
}

double backoff_seconds(const HubSettings& settings, int attempt, const Headers& headers) {
  thread_local std::minstd_rand random(std::random_device{}());
  double seconds = std::min(30.0, settings.first_backoff_s * std::exp2(std::min(attempt - 1, 16)));
  seconds *= std::uniform_real_distribution<double>(0.75, 1.25)(random);
  return std::max(seconds, parse_retry_after(header(headers, "retry-after")).value_or(0));
}

void sleep_checking(double seconds, const std::function<void()>& check) {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  for (auto now = Clock::now(); now < end; now = Clock::now()) {
    check();
    std::this_thread::sleep_for(std::min<Clock::duration>(end - now, std::chrono::milliseconds(100)));
  }
}

std::string origin_of(const std::string& text) {
  Url url;
  if (!url.set(text)) return "";
  std::string scheme = url_part(url.handle, CURLUPART_SCHEME), host = url_part(url.handle, CURLUPART_HOST);
  if (scheme != "http" && scheme != "https") return "";
  std::ranges::transform(host, host.begin(),
                         [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  return scheme + "://" + host + ":" + url_part(url.handle, CURLUPART_PORT, CURLU_DEFAULT_PORT);
}

std::string follow(const std::string& base, const std::string& location) {
  Url url;
  if (location.empty() || !url.set(base) || !url.set(location)) return "";
  std::string full = url_part(url.handle, CURLUPART_URL), scheme = url_part(url.handle, CURLUPART_SCHEME);
  if (scheme != "https" && (scheme != "http" || base.starts_with("https:"))) return "";
  return full;
}

std::string url_escape(std::string_view text, std::string_view keep) {
  std::string out;
  for (char c : text) {
    bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                 std::string_view("-_.~").find(c) != std::string_view::npos || keep.find(c) != std::string_view::npos;
    if (plain) {
      out += c;
    } else {
      out += fmt::format("%{:02X}", static_cast<unsigned char>(c));
    }
  }
  return out;
}

CurlHandle::CurlHandle(const HubSettings& settings) : settings_(settings) {
  static const CURLcode ready = curl_global_init(CURL_GLOBAL_DEFAULT);  // once, whichever thread comes first
  curl_ = ready == CURLE_OK ? curl_easy_init() : nullptr;
  if (!curl_) fail(ErrorCode::kUnsupported, "libcurl cannot be started on this system");
  auto set = [&](CURLoption option, auto value) { TS_CHECK(curl_easy_setopt(curl_, option, value) == CURLE_OK); };
  set(CURLOPT_NOSIGNAL, 1L);
  set(CURLOPT_PROTOCOLS_STR, "http,https");
  set(CURLOPT_FOLLOWLOCATION, 0L);
  set(CURLOPT_HTTP_VERSION, long{CURL_HTTP_VERSION_1_1});  // parallel ranges want connections of their own
  set(CURLOPT_USERAGENT, "tessera");
  set(CURLOPT_CONNECTTIMEOUT, static_cast<long>(settings.timeout_s));
  set(CURLOPT_LOW_SPEED_LIMIT, 1L);
  set(CURLOPT_LOW_SPEED_TIME, static_cast<long>(settings.timeout_s));
  if (!settings.certificates.empty()) set(CURLOPT_CAINFO, settings.certificates.c_str());
  set(CURLOPT_ERRORBUFFER, error_);
}

CurlHandle::~CurlHandle() {
  curl_easy_cleanup(curl_);
  curl_slist_free_all(static_cast<curl_slist*>(header_list_));
}

void CurlHandle::prepare(const std::string& url, int64_t range_begin, int64_t range_end) {
  curl_slist_free_all(static_cast<curl_slist*>(header_list_));
  curl_slist* list = curl_slist_append(nullptr, "Accept-Encoding: identity");  // a hash is of the plain bytes
  if (!settings_.token.empty() && origin_of(url) == origin_of(settings_.endpoint))
    list = curl_slist_append(list, ("Authorization: Bearer " + settings_.token).c_str());
  header_list_ = list;
  error_[0] = 0;
  TS_CHECK(list && curl_easy_setopt(curl_, CURLOPT_HTTPHEADER, list) == CURLE_OK);
  TS_CHECK(curl_easy_setopt(curl_, CURLOPT_URL, url.c_str()) == CURLE_OK);
  std::string range =
      range_end >= 0 ? fmt::format("{}-{}", range_begin, range_end - 1) : fmt::format("{}-", range_begin);
  const bool whole = range_begin == 0 && range_end < 0;
  TS_CHECK(curl_easy_setopt(curl_, CURLOPT_RANGE, whole ? nullptr : range.c_str()) == CURLE_OK);
}

std::string CurlHandle::error_text(int code) const {
  return shown(error_[0] ? error_ : curl_easy_strerror(static_cast<CURLcode>(code)));
}

HttpSession::HttpSession(const HubSettings& settings, std::function<void()> check)
    : settings_(settings), check_(std::move(check)), handle_(settings) {}

HttpAnswer HttpSession::once(Method method, const std::string& url, int64_t max_body) {
  HttpAnswer answer;
  Receiving in{&answer, &check_, max_body};
  auto* curl = static_cast<CURL*>(handle_.get());
  handle_.prepare(url, 0, -1);
  auto set = [&](CURLoption option, auto value) { TS_CHECK(curl_easy_setopt(curl, option, value) == CURLE_OK); };
  set(CURLOPT_NOBODY, method == Method::kHead ? 1L : 0L);
  if (method == Method::kGet) set(CURLOPT_HTTPGET, 1L);
  set(CURLOPT_HEADERFUNCTION, on_header);
  set(CURLOPT_HEADERDATA, static_cast<void*>(&in));
  set(CURLOPT_WRITEFUNCTION, on_body);
  set(CURLOPT_WRITEDATA, static_cast<void*>(&in));
  set(CURLOPT_NOPROGRESS, 0L);
  set(CURLOPT_XFERINFOFUNCTION, on_progress);
  set(CURLOPT_XFERINFODATA, static_cast<void*>(&in));
  const CURLcode code = curl_easy_perform(curl);
  if (in.stopped) std::rethrow_exception(in.stopped);
  if (in.too_big) fail(ErrorCode::kCorrupt, "{}: the answer is larger than {} bytes; refused", shown(url), max_body);
  if (code == CURLE_OK) {
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &answer.status);
  } else {
    answer.error = handle_.error_text(code);
  }
  return answer;
}

HttpAnswer HttpSession::patiently(Method method, const std::string& url, int64_t max_body) {
  for (int attempt = 1;; ++attempt) {
    HttpAnswer answer = once(method, url, max_body);
    const int most = answer.status ? settings_.attempts : std::min(settings_.attempts, kSilentAttempts);
    if (!is_passing_trouble(answer) || attempt >= most) return answer;
    double seconds = backoff_seconds(settings_, attempt, answer.headers);
    log::log(seconds > kLongPause ? log::level::warn : log::level::info, "{}: {}; again in {:.1f} s", shown(url),
             answer.status ? fmt::format("status {}", answer.status) : answer.error, seconds);
    sleep_checking(seconds, check_);
  }
}

}  // namespace tessera::hub
