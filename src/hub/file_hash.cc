#include "hub/file_hash.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "core/error.h"

namespace tessera::hub {

FileHashes hash_file(const std::string& path, const std::vector<HashKind>& kinds) {
  constexpr size_t kPiece = size_t{1} << 20;
  std::ifstream in(path, std::ios::binary);
  if (!in)
    fail(errno == ENOENT ? ErrorCode::kNotFound : ErrorCode::kIo, "{}: cannot be read ({})", path,
         std::strerror(errno));
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  if (error) fail(ErrorCode::kIo, "{}: cannot be read ({})", path, error.message());
  FileHashes out;
  std::vector<ContentHash> hashes;
  for (HashKind kind : kinds) hashes.emplace_back(kind, static_cast<int64_t>(size));
  std::vector<char> piece(kPiece);
  do {
    in.read(piece.data(), static_cast<std::streamsize>(piece.size()));
    for (ContentHash& hash : hashes) hash.update(piece.data(), static_cast<size_t>(in.gcount()));
    out.size += in.gcount();
  } while (in);
  if (in.bad()) fail(ErrorCode::kIo, "{}: cannot be read ({})", path, std::strerror(errno));
  for (ContentHash& hash : hashes) out.hashes.push_back(hash.finish());
  return out;
}

}  // namespace tessera::hub
