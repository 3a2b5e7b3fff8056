// What must hold for any bytes given to the readers of safetensors files and their index, as functions that the
// property test and the fuzz targets call. Each returns what went wrong, or nothing; refusing the bytes with an Error
// is right.
#pragma once

#include <string>
#include <string_view>

namespace tessera {

// The bytes as a file: opens it, and checks that the tensors cover the data exactly and can all be read and found.
std::string check_safetensors_file(std::string_view bytes);

// The bytes as an index: every shard is a plain file name.
std::string check_safetensors_index(std::string_view bytes);

}  // namespace tessera
