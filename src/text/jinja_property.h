// What must hold for any bytes taken as a template: shared by a bounded test and the fuzzer.
#pragma once

#include <string>
#include <string_view>

namespace tessera {

// Parses and renders `source` twice. Returns what went wrong, or nothing: it either renders the same text both times,
// within the limits, with marks that cover it, or fails with a tessera::Error of an expected kind and one line.
std::string check_template(std::string_view source);

}  // namespace tessera
