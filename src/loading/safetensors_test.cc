#include "loading/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "loading/test_files.h"

namespace tessera {
namespace {

constexpr auto kCorrupt = ErrorCode::kCorrupt;
constexpr auto kUnsupported = ErrorCode::kUnsupported;

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return "\"" + name + R"(":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
}

class Safetensors : public testing::Test {
 protected:
  // Opens a file with this header and `data` zero bytes.
  void open(const std::string& header, size_t data) {
    SafetensorsFile::open(folder_.write("x.safetensors", safetensors_bytes(header, std::string(data, '\0'))));
  }
  void open_bytes(const std::string& bytes) { SafetensorsFile::open(folder_.write("x.safetensors", bytes)); }

  TempFolder folder_;
};

TEST_F(Safetensors, ReadsTensorsAndMetadata) {
  std::string data = "ABCDEFGHIJKL";
  std::string header = "{" + entry("b", "U8", "[2,2]", "[8,12]") + R"(,"__metadata__":{"format":"pt","x":""},)" +
                       entry("a", "F32", "[2]", "[0,8]") + "}   ";
  SafetensorsFile file = SafetensorsFile::open(folder_.write("x.safetensors", safetensors_bytes(header, data)));
  ASSERT_EQ(file.tensors().size(), 2u);
  EXPECT_EQ(file.tensors()[0].name, "a");  // in the order of the bytes
  EXPECT_EQ(file.metadata().at("format"), "pt");
  ASSERT_NE(file.find("b"), nullptr);
  Tensor b = file.view(*file.find("b"));
  EXPECT_EQ(b.shape, (Shape{2, 2}));
  EXPECT_EQ(b.dtype, DType::kU8);
  EXPECT_EQ(std::string(b.as<char>(), 4), "IJKL");
  EXPECT_EQ(file.find("c"), nullptr);
  EXPECT_EQ(file.data_bytes(), 12);
}

TEST_F(Safetensors, EmptyObjectAndScalar) {
  EXPECT_NO_THROW(open("{}", 0));
  EXPECT_NO_THROW(open("{" + entry("a", "F64", "[]", "[0,8]") + "}", 8));
}

TEST_F(Safetensors, LengthPrefix) {
  EXPECT_ERROR(open_bytes(""), kCorrupt, "0 bytes", "incomplete");
  EXPECT_ERROR(open_bytes("1234567"), kCorrupt, "7 bytes");
  EXPECT_ERROR(open_bytes(std::string(8, '\0')), kCorrupt, "does not start with '{'");
  EXPECT_ERROR(open_bytes(std::string("\x03\0\0\0\0\0\0\0{}", 10)), kCorrupt, "header of 3 bytes in a file of 10");
  EXPECT_ERROR(open_bytes(std::string(16, '\xff')), kCorrupt, "at most 100000000");
  // One past the limit, in a (sparse) file that is long enough.
  std::string path = folder_.write("x.safetensors", std::string("\x01\xe1\xf5\x05\0\0\0\0{}", 10));
  std::filesystem::resize_file(path, 200'000'000);
  EXPECT_ERROR(SafetensorsFile::open(path), kCorrupt, "header of 100000001 bytes");
  EXPECT_ERROR(open_bytes("version https://git-lfs.github.com/spec/v1\noid sha256:00\n"), kCorrupt, "git lfs pull");
}

TEST_F(Safetensors, NotJson) {
  EXPECT_ERROR(open(" {}", 0), kCorrupt, "does not start with '{'");
  EXPECT_ERROR(open("[]", 0), kCorrupt, "does not start with '{'");
  EXPECT_ERROR(open("\xef\xbb\xbf{}", 0), kCorrupt, "does not start with '{'");
  EXPECT_ERROR(open("{", 0), kCorrupt, "not valid JSON");
  EXPECT_ERROR(open("{}}", 0), kCorrupt, "not valid JSON");
  EXPECT_ERROR(open("{}{}", 0), kCorrupt, "not valid JSON");
  EXPECT_ERROR(open(std::string("{}\0", 3), 0), kCorrupt, "NUL");
  EXPECT_ERROR(open("{\"a\xff\":{}}", 0), kCorrupt, "not valid JSON");          // no UTF-8
  EXPECT_ERROR(open("{\"a\xc0\x80\":{}}", 0), kCorrupt, "not valid JSON");      // overlong
  EXPECT_ERROR(open("{\"a\xed\xa0\x80\":{}}", 0), kCorrupt, "not valid JSON");  // surrogate
  EXPECT_ERROR(open(R"({"a\ud800":{}})", 0), kCorrupt, "not valid JSON");
  EXPECT_ERROR(open("{\"a\n\":{}}", 0), kCorrupt, "not valid JSON");
}

TEST_F(Safetensors, WrongStructure) {
  for (const char* value : {"1", "-1", "1.5", "null", "true", "\"x\"", "[]"})
    EXPECT_ERROR(open(std::string(R"({"a":)") + value + "}", 0), kCorrupt, "header entry a");
  EXPECT_ERROR(open(R"({"a":{}})", 0), kCorrupt, "lacks dtype, shape or data_offsets");
  EXPECT_ERROR(open(R"({"a":{"dtype":"U8","shape":[0]}})", 0), kCorrupt, "lacks");
  EXPECT_ERROR(open(R"({"a":{"dtype":1,"shape":[0],"data_offsets":[0,0]}})", 0), kCorrupt, "a number");
  EXPECT_ERROR(open(R"({"a":{"dtype":"U8","shape":0,"data_offsets":[0,0]}})", 0), kCorrupt, "a number");
  EXPECT_ERROR(open(R"({"a":{"dtype":"U8","shape":[[0]],"data_offsets":[0,0]}})", 0), kCorrupt, "an array");
  EXPECT_ERROR(open(R"({"a":{"dtype":"U8","shape":["0"],"data_offsets":[0,0]}})", 0), kCorrupt, "a string");
  EXPECT_ERROR(open(R"({"a":{"dtype":"U8","shape":[0],"data_offsets":{}}})", 0), kCorrupt, "an object");
  EXPECT_ERROR(open(R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"x":1}})", 0), kCorrupt,
               "unknown key \"x\"");
  EXPECT_ERROR(open(R"({"__metadata__":[]})", 0), kCorrupt, "an array");
  EXPECT_ERROR(open(R"({"__metadata__":{"a":1}})", 0), kCorrupt, "a number");
  EXPECT_ERROR(open(R"({"__metadata__":{"a":{}}})", 0), kCorrupt, "an object");
  EXPECT_ERROR(open(R"({"__metadata__":{"a":null}})", 0), kCorrupt, "null");
  std::string deep = R"({"a":)";
  for (int i = 0; i < 100000; ++i) deep += "[";
  EXPECT_ERROR(open(deep, 0), kCorrupt, "an array");
}

TEST_F(Safetensors, RepeatedKeys) {
  std::string a = entry("a", "U8", "[1]", "[0,1]"), a2 = entry("a", "U8", "[1]", "[1,2]");
  EXPECT_ERROR(open("{" + a + "," + a2 + "}", 2), kCorrupt, "tensor a appears twice");
  EXPECT_ERROR(open("{" + entry("a", "U8", "[0]", "[0,0]") + "," + entry("a", "U8", "[0]", "[0,0]") + "}", 0), kCorrupt,
               "twice");
  EXPECT_ERROR(open(R"({"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1), kCorrupt,
               "repeats the key");
  EXPECT_ERROR(open(R"({"a":{"dtype":"U8","shape":[9],"shape":[1],"data_offsets":[0,1]}})", 1), kCorrupt,
               "repeats the key");
  EXPECT_ERROR(open(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"data_offsets":[0,1]}})", 1), kCorrupt,
               "repeats");
  EXPECT_ERROR(open(R"({"__metadata__":{"a":"1","a":"2"}})", 0), kCorrupt, "repeats the key");
  EXPECT_ERROR(open(R"({"__metadata__":{},"__metadata__":{}})", 0), kCorrupt, "appears twice");
}

TEST_F(Safetensors, Offsets) {
  EXPECT_ERROR(open("{" + entry("a", "U8", "[2]", "[2,0]") + "}", 2), kCorrupt, "before its begin");
  EXPECT_ERROR(open("{" + entry("a", "U8", "[2]", "[-1,1]") + "}", 2), kCorrupt, "negative number -1");
  EXPECT_ERROR(open("{" + entry("a", "U8", "[2]", "[0]") + "}", 2), kCorrupt, "1 data_offsets");
  EXPECT_ERROR(open("{" + entry("a", "U8", "[2]", "[]") + "}", 2), kCorrupt, "0 data_offsets");
  EXPECT_ERROR(open("{" + entry("a", "U8", "[2]", "[0,2,2]") + "}", 2), kCorrupt, "more than two");
  EXPECT_ERROR(open("{" + entry("a", "U8", "[2]", "[0,2.0]") + "}", 2), kCorrupt, "no whole number");
  EXPECT_ERROR(open("{" + entry("a", "U8", "[2]", "[0,2e0]") + "}", 2), kCorrupt, "no whole number");
  EXPECT_ERROR(open("{" + entry("a", "U8", "[2]", "[0,9223372036854775808]") + "}", 2), kCorrupt, "beyond 63 bits");
  EXPECT_ERROR(open("{" + entry("a", "U8", "[2]", "[0,99999999999999999999999]") + "}", 2), kCorrupt,
               "no whole number");
  EXPECT_ERROR(open("{" + entry("a", "U8", "[9223372036854775807]", "[0,9223372036854775807]") + "}", 2), kCorrupt,
               "shorter");
  EXPECT_ERROR(open("{" + entry("a", "U8", "[2]", "[0,2]") + "}", 1), kCorrupt, "1 bytes shorter",
               "download is incomplete");
  EXPECT_ERROR(open("{" + entry("a", "U8", "[2]", "[0,2]") + "}", 3), kCorrupt, "1 bytes after the last tensor");
  EXPECT_ERROR(open("{}", 1), kCorrupt, "1 bytes after");
  EXPECT_ERROR(open("{" + entry("a", "U8", "[2]", "[1,3]") + "}", 3), kCorrupt, "leaving a hole after the start");
  std::string a = entry("a", "U8", "[4]", "[0,4]");
  EXPECT_ERROR(open("{" + a + "," + entry("b", "U8", "[4]", "[5,9]") + "}", 9), kCorrupt,
               "b begins at byte 5, leaving a hole");
  EXPECT_ERROR(open("{" + a + "," + entry("b", "U8", "[4]", "[3,7]") + "}", 7), kCorrupt, "b begins at byte 3, inside");
  EXPECT_ERROR(open("{" + a + "," + entry("b", "U8", "[4]", "[0,4]") + "}", 4), kCorrupt, "inside");
  EXPECT_ERROR(open("{" + a + "," + entry("b", "U8", "[2]", "[1,3]") + "}", 4), kCorrupt, "inside");
}

TEST_F(Safetensors, ShapeTimesDtypeMustBeTheRange) {
  EXPECT_ERROR(open("{" + entry("a", "F32", "[2]", "[0,4]") + "}", 4), kCorrupt, "8 bytes", "[0, 4)");
  EXPECT_ERROR(open("{" + entry("a", "F32", "[1]", "[0,8]") + "}", 8), kCorrupt, "4 bytes");
  EXPECT_ERROR(open("{" + entry("a", "U8", "[-1]", "[0,1]") + "}", 1), kCorrupt, "negative");
  // Products that wrap to the right size: 2^32 * 2^32 = 0, and 2^63 * 2 + 4 bytes.
  EXPECT_ERROR(open("{" + entry("a", "U8", "[4294967296,4294967296]", "[0,0]") + "}", 0), kCorrupt,
               "more than 63 bits");
  EXPECT_ERROR(open("{" + entry("a", "F32", "[4611686018427387905]", "[0,4]") + "}", 4), kCorrupt, "more than 63 bits");
  EXPECT_ERROR(open("{" + entry("a", "U8", "[4294967296,4294967296,0]", "[0,0]") + "}", 0), kCorrupt, "bytes");
  EXPECT_ERROR(open("{" + entry("a", "F9", "[1]", "[0,1]") + "}", 1), kUnsupported, "\"F9\"");
  EXPECT_ERROR(open("{" + entry("a", "f32", "[1]", "[0,4]") + "}", 4), kUnsupported, "\"f32\"");
  EXPECT_ERROR(open("{" + entry("a", "U8", "[1,1,1,1,1]", "[0,1]") + "}", 1), kUnsupported, "more than 4 dimensions");
}

TEST_F(Safetensors, EmptyTensorsLieBetweenTheirNeighbours) {
  std::string a = entry("a", "U8", "[4]", "[0,4]"), b = entry("b", "U8", "[4]", "[4,8]");
  for (const char* at : {"[0,0]", "[4,4]", "[8,8]"})
    EXPECT_NO_THROW(open("{" + b + "," + entry("z", "F32", "[0,3]", at) + "," + a + "}", 8)) << at;
  EXPECT_NO_THROW(
      open("{" + entry("y", "F32", "[0]", "[4,4]") + "," + entry("z", "U8", "[0]", "[4,4]") + "," + a + "}", 4));
  EXPECT_ERROR(open("{" + a + "," + entry("z", "U8", "[0]", "[2,2]") + "}", 4), kCorrupt, "inside");
  EXPECT_ERROR(open("{" + a + "," + entry("z", "U8", "[0]", "[9,9]") + "}", 4), kCorrupt, "hole");
  EXPECT_ERROR(open("{" + a + "," + entry("z", "U8", "[0]", "[4,5]") + "}", 5), kCorrupt, "0 bytes");
}

TEST_F(Safetensors, NamesInMessagesAreCutAndEscaped) {
  std::string name(5000, 'n');
  auto error = error_of([&] { open("{" + entry(name, "U8", "[2]", "[0,1]") + "}", 1); });
  ASSERT_TRUE(error);
  EXPECT_LT(std::string(error->what()).size(), 600u);
  EXPECT_ERROR(open("{" + entry(R"(a\nb)", "U8", "[2]", "[0,1]") + "}", 1), kCorrupt, R"(a\x0ab)");
}

TEST_F(Safetensors, WrongKindsOfFile) {
  EXPECT_ERROR(SafetensorsFile::open(folder_.file("absent")), ErrorCode::kNotFound, "absent");
  EXPECT_ERROR(SafetensorsFile::open(folder_.path()), ErrorCode::kIo, "not a regular file");
}

TEST_F(Safetensors, NoticesAChangedFile) {
  std::string header = "{" + entry("a", "U8", "[4]", "[0,4]") + "}";
  std::string path = folder_.write("x.safetensors", safetensors_bytes(header, "1234"));
  SafetensorsFile file = SafetensorsFile::open(path);
  EXPECT_NO_THROW(file.check_unchanged());
  std::filesystem::resize_file(path, 20);
  EXPECT_ERROR(file.check_unchanged(), kCorrupt, "was changed");
}

TEST(SafetensorsGoldens, AllOpen) {
  namespace fs = std::filesystem;
  fs::path shared = fs::path(TESSERA_SOURCE_DIR) / "../shared";
  if (!fs::exists(shared)) GTEST_SKIP() << shared << " is absent";
  int files = 0;
  for (const char* place : {"fixtures", "models"}) {
    for (const auto& entry : fs::recursive_directory_iterator(shared / place)) {
      if (entry.path().extension() != ".safetensors") continue;
      EXPECT_NO_THROW(EXPECT_FALSE(SafetensorsFile::open(entry.path().string()).tensors().empty()));
      ++files;
    }
  }
  EXPECT_GT(files, 10);
}

}  // namespace
}  // namespace tessera
