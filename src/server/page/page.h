// The chat page, part of the program: one HTML document that needs nothing but the server's own routes. Constants, so
// thread-safe.
#pragma once

#include <string_view>

namespace tessera::server {

// index.html byte for byte; served as `text/html; charset=utf-8`. It holds no secret, so it needs no API key: the page
// asks for one when /v1/models answers 401.
std::string_view chat_page();

// The Content-Security-Policy to serve it with: the page's own script and style (by their SHA-256), connections to its
// own server, nothing else.
std::string_view chat_page_policy();

}  // namespace tessera::server
