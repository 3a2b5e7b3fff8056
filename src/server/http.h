// A request and a response as routes see them, and the errors that routes throw.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tessera::server {

using Headers = std::vector<std::pair<std::string, std::string>>;

struct HttpRequest {
  std::string method, path, query;  // path is percent-decoded
  std::string argument;             // what stands for {id} in the route's path
  Headers headers;                  // names in lower case
  std::string body;
  std::string id;  // of the request, for logs and the x-request-id header

  // The first header of that name, or nothing.
  std::string_view header(std::string_view lower_case_name) const;
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  Headers headers;
};

const char* status_text(int status);

// A request that is answered with an error. `param` names the field, as in "messages[2].role"; empty: none.
class HttpError : public std::runtime_error {
 public:
  HttpError(int status, std::string message, std::string param = {}, std::string code = {})
      : std::runtime_error(std::move(message)), status_(status), param_(std::move(param)), code_(std::move(code)) {}

  int status() const { return status_; }
  const std::string& param() const { return param_; }
  const std::string& code() const { return code_; }
  int retry_after = 0;  // seconds; 0: not said

 private:
  int status_;
  std::string param_, code_;
};

// Whose error shape a route speaks.
enum class Dialect { kOpenAi, kAnthropic };

// {"error": {"message", "type", "param", "code"}}, or Anthropic's {"type": "error", ...}.
std::string error_json(Dialect dialect, const HttpError& error);
HttpResponse error_response(Dialect dialect, const HttpError& error);
// The HTTP error that any exception of a route stands for.
HttpError to_http_error(const std::exception& e);

std::string url_decode(std::string_view text);
std::string base64_decode(std::string_view text);  // up to the first character that is none of it
bool equal_ignoring_case(std::string_view a, std::string_view b);
// Takes the same time for all strings of b's length.
bool equal_in_constant_time(std::string_view a, std::string_view b);
// Random: PREFIX and 24 hexadecimal digits.
std::string random_id(std::string_view prefix);

}  // namespace tessera::server
