// Helpers of the loading tests: temporary folders and safetensors files written byte by byte.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>

#include "core/error.h"

namespace tessera {

// A fresh folder that is removed at the end.
class TempFolder {
 public:
  TempFolder() {
    std::string pattern = testing::TempDir() + "tessera_test_XXXXXX";
    path_ = mkdtemp(pattern.data());
  }
  ~TempFolder() { std::filesystem::remove_all(path_); }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  std::string write(const std::string& name, const std::string& bytes) const {
    std::filesystem::create_directories(std::filesystem::path(file(name)).parent_path());
    std::filesystem::remove(file(name));  // some file systems flush a file that is truncated and rewritten
    std::ofstream(file(name), std::ios::binary) << bytes;
    return file(name);
  }

 private:
  std::string path_;
};

// The bytes of a safetensors file with this header text, true length prefix and data.
inline std::string safetensors_bytes(const std::string& header, const std::string& data) {
  std::string out(8, '\0');
  uint64_t n = header.size();
  std::memcpy(out.data(), &n, 8);
  return out + header + data;
}

// The error that `f` throws; nothing when it throws none.
template <class F>
std::optional<Error> error_of(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    return e;
  }
  return std::nullopt;
}

inline std::string message_of(const std::optional<Error>& e) {
  return e ? e->what() : "(no error)";
}

// The bytes of a whole file.
inline std::string file_bytes(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace tessera

#define EXPECT_ERROR(statement, wanted_code, ...)                                                   \
  do {                                                                                              \
    auto error_ = ::tessera::error_of([&] { statement; });                                          \
    ASSERT_TRUE(error_) << #statement << " threw nothing";                                          \
    EXPECT_EQ(error_->code(), wanted_code) << error_->what();                                       \
    for (const char* part_ : {__VA_ARGS__}) EXPECT_THAT(error_->what(), testing::HasSubstr(part_)); \
  } while (false)
