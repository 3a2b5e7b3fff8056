// JSON of model folders, read more strictly than JSON asks: a repeated key is an error (readers disagree on which one
// counts), nesting is bounded, and so is the size. Thread-safe: no state.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/json.h"

namespace tessera {

// `where` opens every message, usually the path. Throws kCorrupt.
Json parse_strict_json(std::string_view text, const std::string& where);
// Throws kNotFound, kIo, or kCorrupt; also when the file is larger than max_bytes.
Json read_strict_json_file(const std::string& path, int64_t max_bytes);

// A name from a file, fit for a one-line message: control characters escaped, long ones cut.
std::string printable(std::string_view name);

}  // namespace tessera
