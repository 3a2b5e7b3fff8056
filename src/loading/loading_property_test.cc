#include "loading/loading_property.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "loading/test_files.h"

namespace tessera {
namespace {

std::string tiny_file() {
  return safetensors_bytes(
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},)"
      R"("b":{"dtype":"BF16","shape":[3],"data_offsets":[8,14]},"z":{"dtype":"U8","shape":[0],"data_offsets":[14,14]}})",
      std::string(14, 'x'));
}

// A few random edits of any kind: other bytes, cuts, repetitions, other numbers.
std::string edited(std::string bytes, std::mt19937& random) {
  auto below = [&](size_t n) { return random() % n; };
  for (size_t edits = 1 + below(4); edits > 0; --edits) {
    size_t at = below(bytes.size()), length = below(std::min<size_t>(16, bytes.size() - at));
    switch (below(4)) {
      case 0:
        bytes[at] = static_cast<char>(random());
        break;
      case 1:
        bytes.erase(at, length);
        break;
      case 2:
        bytes.insert(at, bytes.substr(at, length));
        break;
      default:
        bytes.replace(at, length, std::to_string(random()));
        break;
    }
    if (bytes.empty()) bytes = "x";
  }
  return bytes;
}

TEST(SafetensorsProperty, EveryTruncation) {
  std::string bytes = tiny_file();
  for (size_t size = 0; size <= bytes.size(); ++size)
    EXPECT_EQ(check_safetensors_file(bytes.substr(0, size)), "") << size;
}

TEST(SafetensorsProperty, EveryByteOfTheHeaderChanged) {
  std::string bytes = tiny_file();
  for (size_t at = 0; at + 14 < bytes.size(); ++at) {
    for (int value = 0; value < 256; ++value) {
      std::string changed = bytes;
      changed[at] = static_cast<char>(value);
      ASSERT_EQ(check_safetensors_file(changed), "") << "byte " << at << " = " << value;
    }
  }
}

TEST(SafetensorsProperty, RandomEdits) {
  std::string bytes = tiny_file();
  std::mt19937 random(7);
  for (int round = 0; round < 50000; ++round) {
    std::string changed = edited(bytes, random);
    if (round % 2 && changed.size() > 8) {  // a true length prefix lets more edits reach the JSON
      uint64_t n = std::max<size_t>(changed.size(), 22) - 22;
      std::memcpy(changed.data(), &n, 8);
    }
    ASSERT_EQ(check_safetensors_file(changed), "") << round;
  }
}

TEST(IndexProperty, RandomEdits) {
  std::string bytes =
      R"({"metadata":{"total_size":2},"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}})";
  std::mt19937 random(9);
  for (int round = 0; round < 50000; ++round) ASSERT_EQ(check_safetensors_index(edited(bytes, random)), "") << round;
}

}  // namespace
}  // namespace tessera
