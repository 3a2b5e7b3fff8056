#include "loading/prefetch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include "loading/test_files.h"

namespace tessera {
namespace {

constexpr int64_t kTensorBytes = (int64_t{9} << 20) + 5;

class Prefetch : public testing::Test {
 protected:
  Prefetch() {
    for (size_t i = 0; i < data_.size(); ++i) data_[i] = static_cast<char>(i * 2654435761u >> 13);
    folder_.write(
        "model.safetensors",
        safetensors_bytes(fmt::format(R"({{"a":{{"dtype":"U8","shape":[{0}],"data_offsets":[0,{0}]}}}})", kTensorBytes),
                          data_));
    ::sync();  // pages that are not written yet stay
    set_.emplace(SafetensorsSet::open(folder_.path()));
  }
  const SafetensorsFile& file() const { return set_->files()[0]; }
  Tensor tensor() const { return file().view(file().tensors()[0]); }
  int64_t run(std::vector<MappedRange> ranges) {
    const FilePrefetch prefetch(*set_, std::move(ranges));
    const LoadProgressCallback callback = [this](int64_t done, int64_t) { told_ = done; };
    LoadProgress progress(callback, prefetch.bytes());
    prefetch.run(pool_, progress);
    progress.finish();
    return prefetch.bytes();
  }
  MappedRange all() const { return {tensor().as<char>(), kTensorBytes}; }
  int64_t pages_in_memory() const {
    char* at = tensor().as<char>() + 4096 - reinterpret_cast<uintptr_t>(tensor().data) % 4096;
    std::vector<unsigned char> pages(kTensorBytes / 4096 - 1);
    EXPECT_EQ(::mincore(at, pages.size() * 4096, pages.data()), 0);
    return std::count_if(pages.begin(), pages.end(), [](unsigned char p) { return p & 1; });
  }

  TempFolder folder_;
  std::string data_ = std::string(kTensorBytes, '\0');
  std::optional<SafetensorsSet> set_;
  ThreadPool pool_{2};
  int64_t told_ = 0;
};

TEST_F(Prefetch, BringsEveryPage) {
  forget_pages(file().path());
  const int64_t bytes = run({all()});
  EXPECT_EQ(bytes, told_);
  EXPECT_GE(bytes, kTensorBytes);
  EXPECT_LE(bytes, kTensorBytes + 2 * 4096);
  EXPECT_EQ(pages_in_memory(), kTensorBytes / 4096 - 1);
  EXPECT_EQ(std::string_view(tensor().as<char>(), data_.size()), data_);
}

// What a rank does not hold stays where it is, but for what the system reads ahead by itself.
TEST_F(Prefetch, BringsNoMoreThanIsAsked) {
  forget_pages(file().path());
  const char* at = all().at;
  const char* page = at + 4096 - reinterpret_cast<uintptr_t>(at) % 4096;
  EXPECT_EQ(run({{page + (1 << 20), 100}}), 4096);
  EXPECT_EQ(run({{page + (1 << 20) + 4095, 2}, {page + (1 << 20), 100}}), 2 * 4096);
  EXPECT_EQ(run({{page, 1}, {page + 15 * 4096, 1}, {page + (2 << 20), 1}, {page, 0}}), (16 + 1) * 4096);
  EXPECT_EQ(run({}), 0);
  EXPECT_LT(pages_in_memory(), kTensorBytes / 4096 / 2);
}

TEST_F(Prefetch, AReadIsTheSameWhereverThePagesAre) {
  for (bool cold : {true, false}) {
    if (cold) forget_pages(file().path());
    for (int64_t begin : {int64_t{0}, int64_t{1}, int64_t{4095}, kTensorBytes - 3}) {
      const int64_t bytes = std::min(kTensorBytes - begin, int64_t{5} << 20);
      std::string got(static_cast<size_t>(bytes), '\0');
      file().read(tensor().as<char>() + begin, bytes, got.data());
      EXPECT_EQ(got, data_.substr(static_cast<size_t>(begin), got.size()));
    }
  }
}

// Where a touched page would end the process.
TEST_F(Prefetch, AFileThatWasCutIsAnError) {
  ASSERT_EQ(::truncate(file().path().c_str(), kTensorBytes / 2), 0);
  EXPECT_ERROR(run({all()}), ErrorCode::kCorrupt, file().path().c_str(), "was cut while it was being loaded");
  std::string got(static_cast<size_t>(kTensorBytes), '\0');
  EXPECT_ERROR(file().read(tensor().data, kTensorBytes, got.data()), ErrorCode::kCorrupt, "was cut while it was");
}

}  // namespace
}  // namespace tessera
