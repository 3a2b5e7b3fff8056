// What must hold for every stream of tokens, as one function that the property test and the fuzz target call.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace tessera {

// Reads `data` as a recipe for a harmony stream (any bytes are one), parses it cut into tokens in several ways, and
// checks that
//   - all cuts give the same messages, with valid UTF-8 everywhere and none left open;
//   - events come in order, deltas are whole characters and join to the contents, headers do not change once told;
//   - the messages, rendered, parse to themselves.
// Returns what went wrong, or nothing.
std::string check_harmony_stream(std::string_view data);

}  // namespace tessera
