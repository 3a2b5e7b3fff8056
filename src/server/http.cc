#include "server/http.h"

#include <array>
#include <random>

#include "core/json.h"
#include "tessera/error.h"

namespace tessera::server {

std::string_view HttpRequest::header(std::string_view lower_case_name) const {
  for (const auto& [name, value] : headers)
    if (name == lower_case_name) return value;
  return {};
}

namespace {

// Status, its words, and the types of errors that go with it.
struct StatusRow {
  int status;
  const char* text;
  const char* openai_type;
  const char* anthropic_type;
};
constexpr StatusRow kStatuses[] = {
    {200, "OK", "", ""},
    {204, "No Content", "", ""},
    {400, "Bad Request", "invalid_request_error", "invalid_request_error"},
    {401, "Unauthorized", "authentication_error", "authentication_error"},
    {403, "Forbidden", "permission_error", "permission_error"},
    {404, "Not Found", "invalid_request_error", "not_found_error"},
    {405, "Method Not Allowed", "invalid_request_error", "invalid_request_error"},
    {408, "Request Timeout", "invalid_request_error", "invalid_request_error"},
    {413, "Content Too Large", "invalid_request_error", "request_too_large"},
    {415, "Unsupported Media Type", "invalid_request_error", "invalid_request_error"},
    {417, "Expectation Failed", "invalid_request_error", "invalid_request_error"},
    {429, "Too Many Requests", "rate_limit_error", "rate_limit_error"},
    {431, "Request Header Fields Too Large", "invalid_request_error", "invalid_request_error"},
    {500, "Internal Server Error", "server_error", "api_error"},
    {503, "Service Unavailable", "service_unavailable", "overloaded_error"},
    {504, "Gateway Timeout", "timeout_error", "timeout_error"},
};

const StatusRow& status_row(int status) {
  for (const StatusRow& row : kStatuses)
    if (row.status == status) return row;
  return status_row(500);
}

OrderedJson or_null(const std::string& text) {
  return text.empty() ? OrderedJson() : OrderedJson(text);
}

// What a client sent comes back in errors; not all of it. A character that is cut becomes U+FFFD.
std::string clip(const std::string& text, size_t bytes) {
  return text.size() <= bytes ? text : text.substr(0, bytes) + "...";
}

}  // namespace

const char* status_text(int status) {
  return status_row(status).text;
}

std::string error_json(Dialect dialect, const HttpError& error) {
  constexpr size_t kMaxMessage = 2000, kMaxParam = 500;
  const StatusRow& row = status_row(error.status());
  std::string message = clip(error.what(), kMaxMessage);
  const std::string param = clip(error.param(), kMaxParam);
  OrderedJson body;
  if (dialect == Dialect::kAnthropic) {
    if (!param.empty() && message.find(param) == std::string::npos) message = param + ": " + message;
    body = {{"type", "error"}, {"error", {{"type", row.anthropic_type}, {"message", message}}}};
  } else {
    body["error"] = {
        {"message", message}, {"type", row.openai_type}, {"param", or_null(param)}, {"code", or_null(error.code())}};
  }
  return body.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

HttpResponse error_response(Dialect dialect, const HttpError& error) {
  HttpResponse response{.status = error.status(), .body = error_json(dialect, error) + "\n"};
  if (error.retry_after > 0) response.headers.emplace_back("Retry-After", std::to_string(error.retry_after));
  return response;
}

HttpError to_http_error(const std::exception& e) {
  if (const auto* http = dynamic_cast<const HttpError*>(&e)) return *http;
  if (const auto* error = dynamic_cast<const Error*>(&e)) {
    switch (error->code()) {
      case ErrorCode::kInvalidArgument:
      case ErrorCode::kUnsupported:
        return {400, e.what()};
      case ErrorCode::kNotFound:
        return {404, e.what()};
      case ErrorCode::kIo:
        return {503, e.what(), {}, "engine_dead"};
      case ErrorCode::kCancelled:
        return {504, e.what(), {}, "cancelled"};
      case ErrorCode::kCorrupt:
      case ErrorCode::kOutOfMemory:
        break;
    }
    return {500, e.what()};
  }
  if (dynamic_cast<const std::bad_alloc*>(&e)) return {503, "the server is out of memory; try again later"};
  return {500, "unexpected failure; see the server's log"};
}

std::string url_decode(std::string_view text) {
  auto digit = [](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
  };
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && digit(text[i + 1]) >= 0 && digit(text[i + 2]) >= 0) {
      out += static_cast<char>(digit(text[i + 1]) * 16 + digit(text[i + 2]));
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

std::string base64_decode(std::string_view text) {
  constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  uint32_t bits = 0;
  int count = 0;
  for (char c : text) {
    const size_t digit = kAlphabet.find(c);
    if (digit == std::string_view::npos) break;
    bits = bits << 6 | static_cast<uint32_t>(digit);
    if ((count += 6) < 8) continue;
    count -= 8;
    out += static_cast<char>(bits >> count & 0xff);
  }
  return out;
}

bool equal_ignoring_case(std::string_view a, std::string_view b) {
  auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i)
    if (lower(a[i]) != lower(b[i])) return false;
  return true;
}

bool equal_in_constant_time(std::string_view a, std::string_view b) {
  unsigned different = a.size() != b.size();
  for (size_t i = 0; i < b.size(); ++i)
    different |= static_cast<unsigned char>(b[i]) ^ static_cast<unsigned char>(i < a.size() ? a[i] : 0);
  return different == 0;
}

std::string random_id(std::string_view prefix) {
  constexpr char kDigits[] = "0123456789abcdef";
  thread_local std::random_device device;  // ids of stored responses must not be guessed
  std::string id(prefix);
  for (int i = 0; i < 3; ++i) {
    uint32_t bits = device();
    for (int k = 0; k < 8; ++k, bits >>= 4) id += kDigits[bits & 15];
  }
  return id;
}

}  // namespace tessera::server
