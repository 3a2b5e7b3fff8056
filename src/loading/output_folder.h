// A folder that a job fills: absent or empty before, removed with all that was put there unless kept.
#pragma once

#include <filesystem>
#include <string>

#include "core/error.h"

namespace tessera {

class OutputFolder {
 public:
  // Creates it. Throws kInvalidArgument when something is there, kIo.
  explicit OutputFolder(const std::string& path) : path_(path) {
    namespace fs = std::filesystem;
    std::error_code error;
    bool exists = fs::exists(path, error);
    if (exists && (!fs::is_directory(path, error) || !fs::is_empty(path, error)))
      fail(ErrorCode::kInvalidArgument, "{}: exists and is no empty folder; choose another place", path);
    fs::create_directories(path, error);
    if (error) fail(ErrorCode::kIo, "{}: cannot create the folder: {}", path, error.message());
    made_ = !exists;
  }
  ~OutputFolder() {
    if (kept_) return;
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(path_, error))
      std::filesystem::remove_all(entry.path(), error);
    if (made_) std::filesystem::remove(path_, error);
  }
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;

  // Copies a file here under its own name, writable by its owner.
  void copy(const std::filesystem::path& from) {
    namespace fs = std::filesystem;
    std::error_code error;
    fs::path to = fs::path(path_) / from.filename();
    fs::copy_file(from, to, error);
    if (!error) fs::permissions(to, fs::perms::owner_write, fs::perm_options::add, error);
    if (error) fail(ErrorCode::kIo, "{}: cannot copy to {}: {}", from.string(), path_, error.message());
  }
  void keep() { kept_ = true; }

 private:
  std::string path_;
  bool made_ = false, kept_ = false;
};

}  // namespace tessera
