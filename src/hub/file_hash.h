// The hashes of a file on this disk.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hub/content_hash.h"

namespace tessera::hub {

struct FileHashes {
  int64_t size = 0;                 // bytes that were hashed
  std::vector<std::string> hashes;  // one a kind that was asked for, lower-case digits
};
// Reads the file once. Throws kNotFound, kIo.
FileHashes hash_file(const std::string& path, const std::vector<HashKind>& kinds);

}  // namespace tessera::hub
