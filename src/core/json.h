// nlohmann::json under one name, with accessors that fail by naming the file and the key. For configs and requests;
// big files (tokenizer.json) are read with simdjson instead.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace tessera {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;  // keeps key order: tool schemas, chat templates

// The whole file. Throws kNotFound or kIo, or kCorrupt when it is larger than max_bytes.
std::string read_text_file(const std::string& path, int64_t max_bytes = int64_t{256} << 20);
// Throws kNotFound, kIo, or kCorrupt with the position of the first bad byte.
Json read_json_file(const std::string& path, int64_t max_bytes = int64_t{256} << 20);
// Writes through a temporary file and rename, so a full disk or a kill never leaves half a file. Throws kIo.
void write_text_file(const std::string& path, const std::string& text);

}  // namespace tessera
