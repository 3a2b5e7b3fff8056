#include "loading/arranged_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <random>
#include <thread>

#include "core/dtype.h"
#include "loading/checkpoint.h"
#include "loading/test_files.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

constexpr int64_t kExperts = 8, kOut = 512, kIn = 1024;  // 8 MiB of bf16, transposed

class Arranged : public testing::Test {
 protected:
  Arranged() {
    folder_.write("config.json", "{}");
    write_model(1);
  }
  void write_model(uint32_t seed) {
    std::string data(static_cast<size_t>(kExperts * kOut * kIn * 2), '\0');
    auto* values = reinterpret_cast<uint16_t*>(data.data());
    for (size_t i = 0; i < data.size() / 2; ++i) values[i] = static_cast<uint16_t>((i + seed) * 2654435761u >> 18);
    const std::string header = fmt::format(R"({{"e":{{"dtype":"BF16","shape":[{},{},{}],"data_offsets":[0,{}]}}}})",
                                           kExperts, kIn, kOut, data.size());
    folder_.write("model.safetensors", safetensors_bytes(header + std::string((8 - header.size() % 8) % 8, ' '), data));
  }
  // The weights that a load gives; says on standard output what it had to say.
  std::string load(const std::string& cache, const Mesh* mesh = nullptr, int rank = 0) {
    ThreadPool pool(2);
    Weight e;
    WeightPlan plan;
    plan.experts(e, "e", kExperts, kOut, kIn);
    Checkpoint checkpoint = Checkpoint::open(folder_.path());
    checkpoint.load(plan, {.mesh = mesh, .rank = rank, .arranged_cache = cache}, pool);
    return {e.values.as<char>(), static_cast<size_t>(e.values.bytes())};
  }
  std::string load() { return load(cache()); }
  std::string cache() const { return folder_.file("cache"); }
  std::vector<std::string> files() const {
    std::vector<std::string> found;
    if (!fs::exists(cache())) return found;
    for (const auto& entry : fs::directory_iterator(cache()))
      if (entry.path().extension() != ".lock") found.push_back(entry.path().string());
    return found;
  }
  std::string only_file() const {
    const std::vector<std::string> all = files();
    EXPECT_EQ(all.size(), 1u);
    return all.empty() ? "" : all[0];
  }
  static ino_t inode(const std::string& path) {
    struct stat info {};
    EXPECT_EQ(::stat(path.c_str(), &info), 0);
    return info.st_ino;
  }

  TempFolder folder_;
};

TEST_F(Arranged, TheSecondLoadMapsWhatTheFirstMade) {
  const std::string made = load("");
  EXPECT_TRUE(files().empty());
  EXPECT_EQ(load(), made);
  const std::string path = only_file();
  EXPECT_EQ(file_bytes(path).substr(4096), made + std::string(fs::file_size(path) - 4096 - made.size(), '\0'));
  const ino_t first = inode(path);
  EXPECT_EQ(load(), made);
  EXPECT_EQ(inode(path), first);
  // Only the cache can say this now.
  std::string bytes = file_bytes(folder_.file("model.safetensors"));
  const auto time = fs::last_write_time(folder_.file("model.safetensors"));
  bytes.back() = static_cast<char>(bytes.back() + 1);
  folder_.write("model.safetensors", bytes);
  fs::last_write_time(folder_.file("model.safetensors"), time);
  EXPECT_EQ(load(), made);
}

TEST_F(Arranged, AnotherModelIsMadeAnewInItsPlace) {
  load();
  write_model(2);
  const std::string made = load("");
  EXPECT_EQ(load(), made);
  EXPECT_EQ(load(), made);
  only_file();
}

TEST_F(Arranged, EveryRankHasItsOwn) {
  const Mesh mesh{.tensor = 2};
  for (int round = 0; round < 2; ++round)
    for (int rank = 0; rank < 2; ++rank) EXPECT_EQ(load(cache(), &mesh, rank), load("", &mesh, rank));
  EXPECT_EQ(files().size(), 2u);
}

TEST_F(Arranged, DamageIsFoundAndMended) {
  const std::string made = load(), path = only_file(), good = file_bytes(path);
  auto changed = [&](size_t at) {
    std::string bytes = good;
    bytes[at] = static_cast<char>(bytes[at] ^ 0x10);
    return bytes;
  };
  for (const std::string& bad :
       {std::string(), std::string("foreign"), good.substr(0, 5000), good + "x", changed(3), changed(20), changed(80),
        changed(4096), changed(good.size() / 2 + 5), good.substr(0, 4096) + std::string(good.size() - 4096, '\0')}) {
    fs::remove(path);
    std::ofstream(path, std::ios::binary) << bad;
    EXPECT_EQ(load(), made);
    EXPECT_TRUE(file_bytes(path) == good) << bad.size();
  }
}

TEST_F(Arranged, AFullDiskLeavesNoFile) {
  const std::string made = load("");
  const pid_t child = ::fork();
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit little{1 << 20, 1 << 20};
    ::setrlimit(RLIMIT_FSIZE, &little);
    const bool same = load() == made;
    ::_exit(same ? 0 : 1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_TRUE(files().empty());
  EXPECT_EQ(load("/proc/nowhere"), made);
}

TEST_F(Arranged, WritersBesideEachOther) {
  const std::string made = load("");
  std::vector<std::thread> threads;
  std::vector<std::string> got(4);
  for (std::string& g : got) threads.emplace_back([&] { g = load(); });
  for (std::thread& t : threads) t.join();
  for (const std::string& g : got) EXPECT_TRUE(g == made);
  only_file();
}

// TESSERA_KILLS: how often.
TEST_F(Arranged, KilledAtAnyMoment) {
  const char* asked = ::getenv("TESSERA_KILLS");
  const int kills = asked ? ::atoi(asked) : 8;
  const auto start = std::chrono::steady_clock::now();
  const std::string made = load(), good = file_bytes(only_file());
  const auto whole = std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - start);
  std::mt19937 random(20);
  int inside = 0;
  for (int i = 0; i < kills; ++i) {
    fs::remove_all(cache());
    const pid_t child = ::fork();
    if (child == 0) {
      load();
      ::_exit(0);
    }
    auto sleep = [&](auto most) {
      std::this_thread::sleep_for(std::chrono::microseconds(random() % static_cast<uint64_t>(most)));
    };
    if (i % 2 == 0) {
      sleep(whole.count());
    } else {  // within the write, which is a small part of it
      while (files().empty() && ::waitpid(child, nullptr, WNOHANG) == 0) std::this_thread::yield();
      sleep(6000);
    }
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    for (const std::string& path : files()) inside += path.ends_with(".part");
    EXPECT_TRUE(load() == made);
    EXPECT_TRUE(file_bytes(only_file()) == good);
  }
  std::printf("%d of %d killed while writing\n", inside, kills);
}

}  // namespace
}  // namespace tessera
