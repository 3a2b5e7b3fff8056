#include "core/json.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "core/error.h"

namespace tessera {
namespace {

std::string temp_path(const char* name) {
  return testing::TempDir() + name;
}

TEST(JsonFile, WritesAndReadsBack) {
  std::string path = temp_path("roundtrip.json");
  write_text_file(path, R"({"a": [1, 2]})");
  EXPECT_EQ(read_json_file(path)["a"][1], 2);
}

TEST(JsonFile, NamesTheFileWhenBroken) {
  std::string path = temp_path("broken.json");
  write_text_file(path, R"({"a": )");
  try {
    read_json_file(path);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kCorrupt);
    EXPECT_NE(std::string(e.what()).find(path), std::string::npos);
  }
}

TEST(JsonFile, MissingTooLargeAndFolder) {
  EXPECT_THROW(read_text_file(temp_path("no_such_file")), Error);
  EXPECT_THROW(read_text_file(testing::TempDir()), Error);
  std::string path = temp_path("large.json");
  write_text_file(path, std::string(100, ' '));
  EXPECT_THROW(read_text_file(path, 99), Error);
}

TEST(JsonFile, UnwritableTargetIsAnErrorAndLeavesNothing) {
  EXPECT_THROW(write_text_file(temp_path("no_folder/x.json"), "{}"), Error);
}

}  // namespace
}  // namespace tessera
