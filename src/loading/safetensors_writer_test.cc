#include "loading/safetensors_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <numeric>

#include "loading/safetensors_index.h"
#include "loading/test_files.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

size_t count_files(const std::string& folder) {
  size_t n = 0;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator(folder)) ++n;
  return n;
}

// Limits the size of files this process may write, until the end of the scope.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    previous_ = std::signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &saved_);
    rlimit limit{bytes, saved_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &saved_);
    std::signal(SIGXFSZ, previous_);
  }

 private:
  rlimit saved_{};
  void (*previous_)(int) = SIG_DFL;
};

class Writer : public testing::Test {
 protected:
  void SetUp() override {
    std::iota(bytes_.begin(), bytes_.end(), uint8_t{0});
    tensors_ = {{"a", {bytes_.data(), {3}, DType::kU8}},
                {"model.b", {bytes_.data() + 8, {2, 4}, DType::kF32}},
                {"\"quoted\" \xc3\xa4", {bytes_.data() + 64, {5}, DType::kBF16}},
                {"empty", {bytes_.data(), {0, 7}, DType::kF32}},
                {"scalar", {bytes_.data() + 80, {}, DType::kI64}}};
  }
  void expect_saved() {
    SafetensorsSet set = SafetensorsSet::open(out());
    int64_t total = 0;
    for (const auto& [name, tensor] : tensors_) {
      auto found = set.find(name);
      ASSERT_TRUE(found) << name;
      EXPECT_EQ(found->shape, tensor.shape);
      EXPECT_EQ(found->dtype, tensor.dtype);
      EXPECT_TRUE(is_aligned(*found));
      EXPECT_EQ(std::memcmp(found->data, tensor.data, static_cast<size_t>(tensor.bytes())), 0) << name;
      total += tensor.bytes();
    }
    EXPECT_EQ(set.total_bytes(), total);
    EXPECT_TRUE(set.notes().empty());
    EXPECT_EQ(set.files()[0].metadata().at("format"), "pt");
  }
  std::string out() { return folder_.file("out"); }

  TempFolder folder_;
  ThreadPool pool_{2};
  std::vector<uint8_t> bytes_ = std::vector<uint8_t>(256);
  std::vector<std::pair<std::string, Tensor>> tensors_;
};

TEST_F(Writer, SingleFile) {
  save_checkpoint(out(), tensors_, {}, pool_);
  expect_saved();
  EXPECT_EQ(count_files(out()), 1u);
  EXPECT_TRUE(fs::exists(out() + "/model.safetensors"));
}

TEST_F(Writer, ShardsFillInOrder) {
  save_checkpoint(out(), tensors_, {.max_shard_bytes = 12}, pool_);
  expect_saved();
  EXPECT_EQ(count_files(out()), 5u);  // 3 | 32 | 10 + 0 | 8, and the index
  SafetensorsSet set = SafetensorsSet::open(out());
  EXPECT_EQ(set.file_of("empty"), set.file_of("\"quoted\" \xc3\xa4"));
  EXPECT_TRUE(fs::exists(out() + "/model-00004-of-00004.safetensors"));
}

TEST_F(Writer, ShardsAsGiven) {
  WriteSettings settings;
  for (const auto& [name, tensor] : tensors_)
    settings.shard_of[name] = name == "a" ? "model-00000-of-00001.safetensors" : "x.safetensors";
  save_checkpoint(out(), tensors_, settings, pool_);
  expect_saved();
  EXPECT_TRUE(fs::exists(out() + "/model-00000-of-00001.safetensors"));
  settings.shard_of.erase("a");
  EXPECT_ERROR(save_checkpoint(folder_.file("other"), tensors_, settings, pool_), ErrorCode::kInvalidArgument,
               "no file is given");
}

TEST_F(Writer, NothingIsLeftWithoutFinish) {
  {
    CheckpointWriter writer(out(), {{"a", DType::kU8, {3}}, {"b", DType::kU8, {3}}}, {.max_shard_bytes = 3});
    writer.write(0, 0, bytes_.data(), 3);
    EXPECT_EQ(count_files(out()), 2u);
  }
  EXPECT_FALSE(fs::exists(out()));
  folder_.write("out/other", "x");
  { CheckpointWriter writer(out(), {{"a", DType::kU8, {3}}}); }
  EXPECT_EQ(count_files(out()), 1u);
}

TEST_F(Writer, RefusesRepeatedNamesAndFoldersWithWeights) {
  auto twice = tensors_;
  twice.push_back(tensors_[0]);
  EXPECT_ERROR(save_checkpoint(out(), twice, {}, pool_), ErrorCode::kInvalidArgument, "two tensors named a");
  EXPECT_FALSE(fs::exists(out()));
  save_checkpoint(out(), tensors_, {}, pool_);
  EXPECT_ERROR(save_checkpoint(out(), tensors_, {}, pool_), ErrorCode::kInvalidArgument, "already holds weights");
  expect_saved();
}

TEST_F(Writer, UnwritablePlaces) {
  folder_.write("file", "x");
  EXPECT_ERROR(save_checkpoint(folder_.file("file/out"), tensors_, {}, pool_), ErrorCode::kIo,
               "cannot create the folder");
}

TEST_F(Writer, TooLittleRoomIsFoundBeforeWriting) {
  EXPECT_ERROR(CheckpointWriter(out(), {{"a", DType::kU8, {int64_t{1} << 60}}}), ErrorCode::kIo, "GB are needed",
               "make room");
  EXPECT_FALSE(fs::exists(out()));
}

TEST_F(Writer, FullDiskAtCreation) {
  std::optional<Error> error;
  {
    FileSizeLimit limit(4096);
    error = error_of([&] {
      CheckpointWriter(out(), {{"a", DType::kU8, {3}}, {"b", DType::kU8, {100000}}}, {.max_shard_bytes = 3});
    });
  }
  ASSERT_TRUE(error);
  EXPECT_EQ(error->code(), ErrorCode::kIo);
  EXPECT_THAT(error->what(), testing::HasSubstr("model-00002-of-00002.safetensors: cannot write"));
  EXPECT_FALSE(fs::exists(out()));
}

TEST_F(Writer, FullDiskInTheMiddle) {
  std::vector<uint8_t> large(20 << 20, 7);
  std::optional<Error> error;
  error = error_of([&] {
    CheckpointWriter writer(out(), {{"a", DType::kU8, {20 << 20}}});
    FileSizeLimit limit(9 << 20);
    write_tensor(writer, 0, {large.data(), {20 << 20}, DType::kU8}, pool_);
    writer.finish();
  });
  ASSERT_TRUE(error);
  EXPECT_EQ(error->code(), ErrorCode::kIo);
  EXPECT_THAT(error->what(), testing::HasSubstr("make room"));
  EXPECT_FALSE(fs::exists(out()));
}

}  // namespace
}  // namespace tessera
