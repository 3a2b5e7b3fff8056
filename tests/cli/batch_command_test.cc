// tessera batch and bench from outside: a file of requests, a run that was killed, and the figures as JSON.
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <random>

#include "cli/program.h"

namespace tessera::testing {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const std::string kModel = TESSERA_SOURCE_DIR "/models/glossary";

class BatchCommand : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!fs::exists(kModel)) GTEST_SKIP() << "models/glossary is not in this checkout";
    folder_ = fs::temp_directory_path() / ("tessera_batch_" + std::to_string(getpid()));
    fs::create_directories(folder_);
    std::ofstream file(folder_ / "requests.jsonl");
    for (const char* word : {"courage", "house", "river", "music"}) {
      file << json{{"custom_id", word},
                   {"method", "POST"},
                   {"url", "/v1/chat/completions"},
                   {"body",
                    {{"messages", {{{"role", "user"}, {"content", std::string("What does ") + word + " mean?"}}}},
                     {"temperature", 0},
                     {"max_tokens", 60}}}}
           << "\n";
    }
    file << R"({"custom_id": "bad", "url": "/v1/embeddings", "body": {}})"
         << "\n";
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string path(const char* name) const { return folder_ / name; }

  // custom_id -> the answer's text, or the error.
  std::map<std::string, std::string> results() const {
    std::ifstream file(path("results.jsonl"));
    std::map<std::string, std::string> out;
    for (std::string line; std::getline(file, line);) {
      json result = json::parse(line);
      const json& response = result["response"];
      const std::string text = response["status_code"] == 200 ? response["body"]["choices"][0]["message"]["content"]
                                                              : response["body"]["error"]["message"];
      EXPECT_TRUE(out.emplace(result["custom_id"], text).second) << "twice: " << line;
    }
    return out;
  }

  fs::path folder_;
};

TEST_F(BatchCommand, AnswersAllAndGoesOnAfterAKill) {
  const std::vector<std::string> args = {"batch", kModel, path("requests.jsonl"), "-o", path("results.jsonl"),
                                         "--json"};
  Outcome first = run_tessera(args);
  ASSERT_EQ(first.exit_code, 0) << first.err;
  const auto whole = results();
  ASSERT_EQ(whole.size(), 5u);
  EXPECT_EQ(whole.at("house").rfind("house (noun): a dwelling", 0), 0u) << whole.at("house");
  EXPECT_NE(whole.at("bad").find("/v1/embeddings"), std::string::npos);
  EXPECT_EQ(json::parse(first.out)["written"], 5);

  // A kill in the middle of a line: two whole results and the beginning of a third.
  std::ifstream file(path("results.jsonl"));
  std::string one, two, three;
  std::getline(file, one), std::getline(file, two), std::getline(file, three);
  file.close();
  std::ofstream(path("results.jsonl")) << one << "\n" << two << "\n" << three.substr(0, three.size() / 2);
  Outcome second = run_tessera(args);
  ASSERT_EQ(second.exit_code, 0) << second.err;
  EXPECT_EQ(results(), whole);
  json report = json::parse(second.out);
  EXPECT_EQ(report["earlier"], 2);
  EXPECT_EQ(report["written"], 3);
}

// Killed again and again at random moments, each time after a little more was written, and started again: in the end
// every request has its one result, and it is that of a run which nobody disturbed.
TEST_F(BatchCommand, KilledAtRandomNothingIsLostOrRepeated) {
  constexpr int kRequests = 40, kKills = 8;
  {
    std::ofstream file(path("many.jsonl"));
    for (int i = 0; i < kRequests; ++i) {
      file << json{{"custom_id", std::to_string(i)},
                   {"method", "POST"},
                   {"url", "/v1/completions"},
                   {"body",
                    {{"prompt", {i + 1, 2 * i + 1, 3 * i + 1}},
                     {"temperature", 1.0},
                     {"seed", i},
                     {"n", 1 + i % 3 / 2},
                     {"max_tokens", 10 + i % 7 * 10}}}}
           << "\n";
    }
  }
  // custom_id -> what does not depend on the clock.
  auto read = [&](const char* name) {
    std::ifstream file(path(name));
    std::map<std::string, json> out;
    for (std::string line; std::getline(file, line) && !file.eof();) {  // eof: the last line has no end
      json result = json::parse(line);
      EXPECT_TRUE(out.emplace(result["custom_id"], result["response"]["body"]["choices"]).second) << "twice: " << line;
    }
    return out;
  };
  auto args = [&](const char* results) -> std::vector<std::string> {
    return {"batch", kModel, path("many.jsonl"), "-o", path(results), "--max-requests", "6", "--json"};
  };
  Outcome undisturbed = run_tessera(args("whole.jsonl"));
  ASSERT_EQ(undisturbed.exit_code, 0) << undisturbed.err;
  const std::map<std::string, json> whole = read("whole.jsonl");
  ASSERT_EQ(whole.size(), static_cast<size_t>(kRequests));

  std::mt19937 random(std::random_device{}());
  auto size = [&] { return fs::exists(path("results.jsonl")) ? fs::file_size(path("results.jsonl")) : uintmax_t{0}; };
  const uintmax_t share = fs::file_size(path("whole.jsonl")) / (kKills + 1);
  int killed = 0;
  for (int i = 0; i < kKills; ++i) {
    const uintmax_t before = size(), enough = before + random() % share;
    uint32_t wait = random() % 30;  // milliseconds longer
    const int code = run_and_kill(args("results.jsonl"), [&] { return size() > enough && wait-- == 0; });
    EXPECT_TRUE(code == 0 || code == 128 + SIGKILL) << code;
    killed += code != 0;
    EXPECT_GE(size() + 4096, before);  // a torn line may go
    for (const auto& [id, choices] : read("results.jsonl")) EXPECT_EQ(choices, whole.at(id)) << id;
  }
  EXPECT_GT(killed, 0);
  const size_t earlier = read("results.jsonl").size();
  Outcome last = run_tessera(args("results.jsonl"));
  ASSERT_EQ(last.exit_code, 0) << last.err;
  EXPECT_EQ(read("results.jsonl"), whole);
  const json report = json::parse(last.out);
  EXPECT_EQ(report["earlier"], earlier);
  EXPECT_EQ(report["written"], kRequests - earlier);
}

TEST_F(BatchCommand, WrongFiles) {
  std::ofstream(path("twice.jsonl")) << R"({"custom_id": "a", "body": {}})"
                                     << "\n"
                                     << R"({"custom_id": "a", "body": {}})"
                                     << "\n";
  Outcome twice = run_tessera({"batch", kModel, path("twice.jsonl"), "-o", path("x.jsonl")});
  EXPECT_EQ(twice.exit_code, 2);
  EXPECT_NE(twice.err.find("occurs twice"), std::string::npos) << twice.err;
  std::ofstream(path("other.jsonl")) << "not a result\n";
  EXPECT_EQ(run_tessera({"batch", kModel, path("requests.jsonl"), "-o", path("other.jsonl")}).exit_code, 1);
  Outcome memory =
      run_tessera({"batch", kModel, path("requests.jsonl"), "-o", path("y.jsonl"), "--cache-memory", "100KiB"});
  EXPECT_EQ(memory.exit_code, 1);
  EXPECT_NE(memory.err.find("--cache-memory"), std::string::npos) << memory.err;
  EXPECT_NE(memory.err.find("tokens of one request"), std::string::npos) << memory.err;
}

// What the program advises works, in every command that has the flag.
TEST_F(BatchCommand, TooLittleCacheMemorySaysWhatWouldDo) {
  for (const std::vector<std::string>& command : std::vector<std::vector<std::string>>{
           {"generate", kModel, "-p", "The", "--max-tokens", "2"},
           {"chat", kModel, "What does house mean?"},
           {"bench", "throughput", kModel, "--requests", "2", "--output-tokens", "2", "3"}}) {
    auto with = [&](const std::string& memory) {
      std::vector<std::string> args = command;
      args.insert(args.end(), {"--cache-memory", memory});
      return run_tessera(args);
    };
    const Outcome refused = with("200KiB");
    EXPECT_EQ(refused.exit_code, 1);
    EXPECT_NE(refused.err.find(" 96 tokens of one request"), std::string::npos) << refused.err;
    EXPECT_NE(refused.err.find("lower --max-context"), std::string::npos) << refused.err;
    const std::string flag = "--cache-memory ";
    const size_t at = refused.err.rfind(flag);
    ASSERT_NE(at, std::string::npos) << refused.err;
    const Outcome done = with(refused.err.substr(at + flag.size(), refused.err.size() - at - flag.size() - 1));
    EXPECT_EQ(done.exit_code, 0) << refused.err << done.err;
  }
  EXPECT_NE(run_tessera({"bench", "throughput", kModel, "--swap-memory", "100TiB"}).err.find("--swap-memory"),
            std::string::npos);
}

// The allocator's own counters: with a window of 128 tokens its layers hold as much at 512 as at 256.
TEST_F(BatchCommand, WindowLayersStopGrowing) {
  auto peak = [&](const std::string& tokens, std::vector<std::string> more) {
    std::vector<std::string> args = {"bench", "throughput",      kModel, "--requests",
                                     "1",     "--output-median", "0",    "--json"};
    args.insert(args.end(), {"--prompt-tokens", "1", "1", "--output-tokens", tokens, tokens});
    args.insert(args.end(), more.begin(), more.end());
    Outcome out = run_tessera(args);
    EXPECT_EQ(out.exit_code, 0) << out.err;
    return json::parse(out.out)["continuous"];
  };
  const char* window = "peak_window_cache_bytes";
  const json two = peak("256", {}), four = peak("512", {});
  EXPECT_GT(two[window], 0);
  EXPECT_EQ(four[window], two[window]);
  EXPECT_GT(four["peak_cache_bytes"], two["peak_cache_bytes"]);  // the other layers' part
  EXPECT_GT(peak("256", {"--ignore-window"})[window].get<int64_t>(),
            peak("128", {"--ignore-window"})[window].get<int64_t>() * 3 / 2);
}

TEST_F(BatchCommand, BenchKernelsMeasuresAndDraws) {
  const std::vector<std::string> words = {"bench", "kernels",         kModel, "--threads", "1", "--prompt-tokens",
                                          "4",     "--output-tokens", "3",    "--rounds",  "1", "--batch-sizes"};
  auto with = [&](std::vector<std::string> more) {
    std::vector<std::string> all = words;
    all.insert(all.end(), more.begin(), more.end());
    return run_tessera(all);
  };
  const Outcome out = with({"1,2", "--json", "--csv", path("sizes.csv"), "--svg", path("sizes.svg")});
  ASSERT_EQ(out.exit_code, 0) << out.err;
  const json report = json::parse(out.out);
  ASSERT_EQ(report["sizes"].size(), 2u);
  EXPECT_EQ(report["sizes"][1]["batch"], 2);
  EXPECT_GT(report["sizes"][1]["builtin_tokens_per_second"].get<double>(), 0);
  EXPECT_FALSE(report.contains("call_nanoseconds")) << "no kernels from the hub were asked for";
  std::ifstream csv(path("sizes.csv")), svg(path("sizes.svg"));
  std::string header, drawn((std::istreambuf_iterator<char>(svg)), {});
  std::getline(csv, header);
  EXPECT_EQ(header, "batch,built_in_tokens_per_s,hub_tokens_per_s");
  EXPECT_EQ(drawn.rfind("<svg", 0), 0u);
  EXPECT_NE(drawn.find("built-in kernels"), std::string::npos);
  EXPECT_EQ(with({"2,1"}).exit_code, 2);
  EXPECT_EQ(with({"1", "--use-kernels", "RMSNorm=x"}).exit_code, 2);
}

TEST_F(BatchCommand, BenchLoadKeepsWhatItMade) {
  std::vector<std::string> words = {"bench",        "load",     kModel, "--device",  "cpu", "--json",
                                    "--dequantize", "--rounds", "1",    "--threads", "2",   "--arranged-cache",
                                    path("made")};
  for (int64_t made : {1, 0}) {
    const Outcome out = run_tessera(words);
    ASSERT_EQ(out.exit_code, 0) << out.err;
    const json speed = json::parse(out.out)["preallocated"];
    EXPECT_EQ(speed["host_peak_bytes"].get<int64_t>() > speed["bytes"].get<int64_t>(), made == 1) << speed;
    EXPECT_TRUE(std::filesystem::exists(path("made")));
  }
}

TEST_F(BatchCommand, BenchReportsAsJson) {
  Outcome out =
      run_tessera({"bench", "throughput", kModel, "--requests", "6", "--prompt-tokens", "4", "20", "--output-tokens",
                   "2", "9", "--max-requests", "3", "--static-batching", "--trace", path("trace.csv"), "--json"});
  ASSERT_EQ(out.exit_code, 0) << out.err;
  json report = json::parse(out.out);
  for (const char* mode : {"static", "continuous"}) {
    EXPECT_EQ(report[mode]["requests"], 6);
    EXPECT_GT(report[mode]["output_tokens_per_second"].get<double>(), 0);
    EXPECT_GT(report[mode]["occupancy"].get<double>(), 0);
    EXPECT_LE(report[mode]["ttft_seconds"]["p50"], report[mode]["ttft_seconds"]["p99"]);
  }
  EXPECT_EQ(report["static"]["output_tokens"], report["continuous"]["output_tokens"]);
  std::ifstream trace(path("trace.csv"));
  std::string header;
  std::getline(trace, header);
  EXPECT_EQ(header, "mode,seconds,requests,tokens,waiting,pages_held,pages_cached,output_tokens");
  EXPECT_EQ(run_tessera({"bench", "latency", kModel, "--requests", "2", "--output-tokens", "2", "3"}).exit_code, 0);
}

}  // namespace
}  // namespace tessera::testing
