// What must hold for every body of a request, as one function that the property test and the fuzz target call.
#pragma once

#include <string>
#include <string_view>

namespace tessera::server {

// Reads `data` as the body of every route, as far as no model is needed, and checks that it is taken or refused with an
// HttpError of status 400 whose JSON is well formed. Returns what went wrong, or nothing.
std::string check_request_body(std::string_view data);

}  // namespace tessera::server
