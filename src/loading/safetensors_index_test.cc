#include "loading/safetensors_index.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "loading/test_files.h"

namespace tessera {
namespace {

constexpr auto kCorrupt = ErrorCode::kCorrupt;
constexpr auto kNotFound = ErrorCode::kNotFound;

// A shard of one-byte U8 tensors with these names.
std::string shard(std::initializer_list<const char*> names) {
  std::string header = "{", data;
  for (const char* name : names) {
    header += fmt::format(R"({}"{}":{{"dtype":"U8","shape":[1],"data_offsets":[{},{}]}})", data.empty() ? "" : ",",
                          name, data.size(), data.size() + 1);
    data += name[0];
  }
  return safetensors_bytes(header + "}", data);
}

std::string index_json(const std::string& map, const std::string& metadata = R"({"total_size":2})") {
  return R"({"metadata":)" + metadata + R"(,"weight_map":{)" + map + "}}";
}

class Index : public testing::Test {
 protected:
  SafetensorsSet open() { return SafetensorsSet::open(folder_.path()); }
  void write_good() {
    folder_.write("1.safetensors", shard({"a"}));
    folder_.write("2.safetensors", shard({"b"}));
    write_index(R"("a":"1.safetensors","b":"2.safetensors")");
  }
  void write_index(const std::string& map) { folder_.write(kIndexName, index_json(map)); }

  TempFolder folder_;
};

TEST_F(Index, FindsTensorsAcrossShards) {
  write_good();
  SafetensorsSet set = open();
  EXPECT_EQ(set.files().size(), 2u);
  ASSERT_TRUE(set.find("b"));
  EXPECT_EQ(*set.find("b")->as<char>(), 'b');
  EXPECT_EQ(set.file_of("b"), 1);
  EXPECT_FALSE(set.find("c"));
  EXPECT_EQ(set.total_bytes(), 2);
  EXPECT_TRUE(set.notes().empty());
  SafetensorsSet moved = std::move(set);
  EXPECT_EQ(*moved.find("a")->as<char>(), 'a');
}

TEST_F(Index, SingleFileWins) {
  folder_.write(kSingleFileName, shard({"z"}));
  folder_.write(kIndexName, "rubbish");
  EXPECT_TRUE(open().find("z"));
}

TEST_F(Index, WrongTotalSizeIsANote) {
  write_good();
  folder_.write(kIndexName, index_json(R"("a":"1.safetensors","b":"2.safetensors")", R"({"total_size":3.0})"));
  ASSERT_EQ(open().notes().size(), 1u);
  EXPECT_THAT(open().notes()[0], testing::HasSubstr("total_size says 3 bytes, the shards hold 2"));
  for (const char* metadata :
       {"{}", "null", R"({"total_size":"2"})", R"({"total_size":-1})", R"({"total_size":1e300})"}) {
    folder_.write(kIndexName, index_json(R"("a":"1.safetensors","b":"2.safetensors")", metadata));
    EXPECT_TRUE(open().notes().empty()) << metadata;
  }
}

TEST_F(Index, MissingShardIsAnIncompleteDownload) {
  write_good();
  std::filesystem::remove(folder_.file("2.safetensors"));
  EXPECT_ERROR(open(), kNotFound, "download is incomplete", "1 of 2 shards are missing: 2.safetensors");
  folder_.write(".cache/huggingface/download/abc.incomplete", "x");
  EXPECT_ERROR(open(), kNotFound, "unfinished abc.incomplete");
  std::filesystem::create_symlink(folder_.file("blob"), folder_.file("2.safetensors"));
  EXPECT_ERROR(open(), kNotFound, "shards are missing: 2.safetensors");
}

TEST_F(Index, TruncatedShardIsAnIncompleteDownload) {
  write_good();
  std::filesystem::resize_file(folder_.file("2.safetensors"),
                               std::filesystem::file_size(folder_.file("2.safetensors")) - 1);
  EXPECT_ERROR(open(), kCorrupt, "2.safetensors", "incomplete");
}

TEST_F(Index, NoWeightsAtAll) {
  EXPECT_ERROR(open(), kNotFound, "has neither model.safetensors nor");
  folder_.write("pytorch_model.bin", "x");
  EXPECT_ERROR(open(), kNotFound, "pytorch_model.bin is in another format");
  folder_.write("model.safetensors.incomplete", "x");
  EXPECT_ERROR(open(), kNotFound, "download is incomplete: no weight file has arrived");
  folder_.write("model-00001-of-00002.safetensors", shard({"a"}));
  EXPECT_ERROR(open(), kNotFound, "incomplete",
               "model-00001-of-00002.safetensors is there, but no model.safetensors.index.json");
  std::filesystem::create_symlink(folder_.file("blob"), folder_.file(kSingleFileName));
  EXPECT_ERROR(open(), kNotFound, "link to a missing file");
}

TEST_F(Index, DisagreementWithShards) {
  write_good();
  write_index(R"("a":"1.safetensors","b":"2.safetensors","c":"2.safetensors")");
  EXPECT_ERROR(open(), kCorrupt, "1 listed tensors are in no shard: c (expected in 2.safetensors)");
  write_index(R"("a":"2.safetensors","b":"1.safetensors")");
  EXPECT_ERROR(open(), kCorrupt, "2 tensors are in another shard than listed");
  folder_.write("2.safetensors", shard({"b", "c"}));
  write_index(R"("a":"1.safetensors","b":"2.safetensors")");
  EXPECT_ERROR(open(), kCorrupt, "1 tensors of the shards are not listed: c");
  folder_.write("2.safetensors", shard({"b", "a"}));
  EXPECT_ERROR(open(), kCorrupt, "tensor a is also in");
}

TEST_F(Index, LongListsAreCut) {
  write_good();
  std::string map = R"("a":"1.safetensors","b":"2.safetensors")";
  for (int i = 0; i < 1000; ++i) map += fmt::format(R"(,"t{}":"1.safetensors")", i);
  write_index(map);
  EXPECT_ERROR(open(), kCorrupt, "1000 listed tensors", "and 995 more");
}

TEST_F(Index, ShardNamesMustStayInTheFolder) {
  for (const char* name : {"../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..\\\\x.safetensors",
                           ".safetensors", "..", "", "x.bin", "x\\u0000.safetensors", ".hidden.safetensors"}) {
    EXPECT_ERROR(parse_safetensors_index(index_json(fmt::format(R"("a":"{}")", name)), "index"), kCorrupt,
                 "is refused");
  }
  EXPECT_ERROR(parse_safetensors_index(index_json(R"("a":")" + std::string(300, 'x') + R"(.safetensors")"), "index"),
               kCorrupt, "is refused");
}

TEST_F(Index, WrongStructure) {
  for (const char* bad : {"", "[]", "{}", R"({"weight_map":[]})", R"({"weight_map":{}})", R"({"weight_map":{"a":1}})",
                          R"({"weight_map":{"a":"1.safetensors","a":"2.safetensors"}})"})
    EXPECT_ERROR(parse_safetensors_index(bad, "index"), kCorrupt, "index: ");
}

TEST_F(Index, PublishedOneParses) {
  std::string path = TESSERA_SOURCE_DIR "/../shared/fixtures/gpt-oss-20b/model.safetensors.index.json";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is absent";
  SafetensorsIndex index = parse_safetensors_index(file_bytes(path), path);
  EXPECT_EQ(index.weight_map.size(), 459u);
  EXPECT_EQ(index.total_size, 13'761'264'768);
}

}  // namespace
}  // namespace tessera
