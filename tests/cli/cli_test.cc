// The program from outside: help, exit codes, one-line errors for everything bad, JSON, and the interactive chat.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "cli/program.h"

namespace tessera::testing {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;
using Args = std::vector<std::string>;

const std::string kModel = TESSERA_SOURCE_DIR "/models/glossary";

std::string read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void write_file(const fs::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

// Commands as the program lists them, with the subcommands they have.
std::vector<Args> all_commands() {
  std::istringstream lines(run_tessera({"--help"}).out);
  std::vector<Args> commands;
  bool inside = false;
  for (std::string line; std::getline(lines, line);) {
    if (line == "commands:") {
      inside = true;
    } else if (inside && line.empty()) {
      break;
    } else if (inside) {
      std::string name;
      std::istringstream(line) >> name;
      commands.push_back({name});
    }
  }
  for (const char* sub : {"perplexity", "exact-match"}) commands.push_back({"eval", sub});
  commands.push_back({"kernels", "list"});
  return commands;
}

// One line on stderr that starts with the program's name.
void expect_error(const Outcome& run, int exit_code, const std::string& part) {
  EXPECT_EQ(run.exit_code, exit_code) << run.err;
  EXPECT_THAT(run.err, AllOf(StartsWith("tessera: "), HasSubstr(part)));
  EXPECT_EQ(std::ranges::count(run.err, '\n'), 1) << run.err;
}

class Cli : public ::testing::Test {
 protected:
  Cli() : folder_(fs::path(::testing::TempDir()) / ("cli." + std::to_string(getpid()))) {
    fs::create_directories(folder_);
  }
  ~Cli() override { fs::remove_all(folder_); }

  // A model folder whose files are links to the glossary model's, to be replaced by bad ones.
  fs::path linked_model() {
    fs::path model = folder_ / "model";
    fs::create_directories(model);
    for (const auto& entry : fs::directory_iterator(kModel)) {
      fs::create_symlink(entry.path(), model / entry.path().filename());
    }
    return model;
  }
  void replace(const fs::path& path, const std::string& text) {
    fs::remove(path);
    write_file(path, text);
  }
  std::string file(const std::string& name, const std::string& text) {
    write_file(folder_ / name, text);
    return folder_ / name;
  }

  fs::path folder_;
};

TEST_F(Cli, EveryCommandTeaches) {
  std::vector<Args> commands = all_commands();
  ASSERT_GE(commands.size(), 9u);
  for (Args args : commands) {
    args.push_back("--help");
    Outcome run = run_tessera(args);
    EXPECT_EQ(run.exit_code, 0) << args[0] << run.err;
    EXPECT_THAT(run.out,
                AllOf(HasSubstr("Usage"), HasSubstr("example"), AnyOf(HasSubstr("--json"), HasSubstr("Subcommands"))))
        << args[0];
    EXPECT_EQ(run.err, "");
  }
}

TEST_F(Cli, BadFlagExits2) {
  for (Args args : all_commands()) {
    args.push_back("--no-such-flag");
    Outcome run = run_tessera(args);
    EXPECT_EQ(run.exit_code, 2) << args[0];
    EXPECT_EQ(std::ranges::count(run.err, '\n'), 1) << run.err;
  }
}

TEST_F(Cli, UnknownCommandNamesTheNearest) {
  expect_error(run_tessera({"chta"}), 2, "did you mean 'chat'?");
  expect_error(run_tessera({"gen"}), 2, "did you mean 'generate'?");
  Outcome run = run_tessera({"xyzzyplugh"});
  expect_error(run, 2, "unknown command");
  EXPECT_THAT(run.err, Not(HasSubstr("did you mean")));
  EXPECT_EQ(run_tessera({}).exit_code, 2);
}

TEST_F(Cli, WhatIsNoModelFolder) {
  expect_error(run_tessera({"generate", folder_ / "absent", "-p", "x"}), 1, "no such folder");
  setenv("HF_HUB_OFFLINE", "1", 1);  // tests/hub has the server for everything else
  setenv("HF_HUB_CACHE", folder_.c_str(), 1);
  expect_error(run_tessera({"generate", "openai/gpt-oss-20b", "-p", "x"}), 1, "tessera download openai/gpt-oss-20b");
  unsetenv("HF_HUB_OFFLINE");
  unsetenv("HF_HUB_CACHE");
  expect_error(run_tessera({"chat", file("m.gguf", "GGUF"), "x"}), 1, "GGUF");
  expect_error(run_tessera({"inspect", file("m.bin", "")}), 1, "not a model folder");
  expect_error(run_tessera({"inspect", folder_}), 1, "config.json");
}

TEST_F(Cli, BadModelFiles) {
  fs::path model = linked_model();
  std::string config = read_file(model / "config.json");
  std::string unknown = config;
  unknown.replace(unknown.find("GptOssForCausalLM"), 17, "NoSuchForCausalLM");
  replace(model / "config.json", unknown);
  expect_error(run_tessera({"generate", model, "-p", "x"}), 1, "NoSuchForCausalLM");
  replace(model / "config.json", config.substr(0, config.size() / 2));
  expect_error(run_tessera({"generate", model, "-p", "x"}), 1, "config.json");
  replace(model / "config.json", config);

  fs::path shard = model / "model-00002-of-00002.safetensors";
  std::string bytes = read_file(shard);
  replace(shard, bytes.substr(0, bytes.size() - 1000));
  for (const char* command : {"generate", "inspect"}) {
    Args args = {command, model};
    if (args[0] == "generate") args.insert(args.end(), {"-p", "x"});
    expect_error(run_tessera(args), 1, "model-00002-of-00002.safetensors");
  }
  fs::remove(shard);
  expect_error(run_tessera({"generate", model, "-p", "x"}), 1, "model-00002-of-00002.safetensors");
}

TEST_F(Cli, ImpossibleSamplingValues) {
  for (Args flags : std::vector<Args>{{"--temperature", "-1"},
                                      {"--temperature", "nan"},
                                      {"--temperature", "warm"},
                                      {"--top-p", "1.5"},
                                      {"--top-p", "0"},
                                      {"--top-k", "-3"},
                                      {"--min-p", "2"},
                                      {"--repetition-penalty", "0"},
                                      {"--frequency-penalty", "999"},
                                      {"--logprobs", "21"},
                                      {"--max-tokens", "-1"},
                                      {"--seed", "-1"},
                                      {"--logit-bias", "x=1"},
                                      {"--logit-bias", "99999999=1"},
                                      {"--greedy", "--temperature", "1"}}) {
    Args args = {"generate", kModel, "-p", "x"};
    args.insert(args.end(), flags.begin(), flags.end());
    Outcome run = run_tessera(args);
    SCOPED_TRACE(flags[0] + " " + flags.back());
    expect_error(run, 2, "");
    EXPECT_EQ(run.out, "");
  }
}

TEST_F(Cli, BadPrompts) {
  expect_error(run_tessera({"generate", kModel, "-p", "ok\xff"}), 2, "byte 2 (0xff) is not UTF-8");
  expect_error(run_tessera({"chat", kModel, "\xc3("}), 2, "not UTF-8");
  expect_error(run_tessera({"generate", kModel, "-p", ""}), 2, "empty");
  expect_error(run_tessera({"generate", kModel}, {.input = ""}), 2, "empty");
  expect_error(run_tessera({"generate", kModel, "-f", folder_ / "absent"}), 1, "absent");
  std::string longer;
  for (int i = 0; i < 100; ++i) longer += "one two three ";
  expect_error(run_tessera({"generate", kModel, "--max-context", "64", "-p", longer}), 2, "64");
  expect_error(run_tessera({"chat", kModel, "--max-context", "64", longer}), 2, "64");
}

TEST_F(Cli, BadSideFiles) {
  expect_error(run_tessera({"chat", kModel, "--tools", file("t", "[1,"), "x"}), 2, "not valid JSON");
  expect_error(run_tessera({"chat", kModel, "--tools", file("t", "{}"), "x"}), 2, "array of functions");
  expect_error(run_tessera({"chat", kModel, "--tools", file("t", "[{\"name\": \"f\"}]"), "x"}), 2, "entry 0");
  expect_error(run_tessera({"chat", kModel, "--tools", file("t", std::string(100000, '[')), "x"}), 2, "nested");
  expect_error(run_tessera({"chat", kModel, "--json"}, {.input = "  \n"}), 2, "empty");
  expect_error(run_tessera({"eval", "exact-match", kModel, "--questions", file("q", "[{\"question\": 1}]")}), 2,
               "entry 0");
  expect_error(run_tessera({"eval", "perplexity", kModel, "--text", file("p", "short")}), 2, "window");
}

TEST_F(Cli, OutputThatFails) {
  Args args = {"generate", kModel, "-p", "x", "--max-tokens", "2", "--greedy"};
  expect_error(run_tessera(args, {.stdout_path = "/dev/full"}), 1, "standard output: No space left");
  Outcome run = run_tessera(args, {.close_stdout_reader = true});
  EXPECT_EQ(run.exit_code, 0);
  EXPECT_EQ(run.err, "");
}

TEST_F(Cli, JsonIsOneObject) {
  std::string text(read_file(TESSERA_SOURCE_DIR "/LICENSE").substr(0, 600));
  std::string questions = file("q.json", R"([{"question": "What does house mean?", "answer": "x"}])");
  for (Args args : std::vector<Args>{{"version"},
                                     {"kernels", "list"},
                                     {"inspect", kModel},
                                     {"generate", kModel, "-p", "x", "--max-tokens", "3", "--logprobs", "2"},
                                     {"chat", kModel, "What does house mean?", "--greedy"},
                                     {"eval", "perplexity", kModel, "--text", file("t", text), "--window", "32"},
                                     {"eval", "exact-match", kModel, "--questions", questions}}) {
    args.push_back("--json");
    Outcome run = run_tessera(args);
    EXPECT_EQ(run.exit_code, 0) << args[0] << ": " << run.err;
    EXPECT_TRUE(json::parse(run.out, nullptr, false).is_object()) << args[0] << ": " << run.out;
    EXPECT_EQ(run.err, "") << args[0];
  }
  Outcome failed = run_tessera({"inspect", folder_ / "absent", "--json"});
  expect_error(failed, 1, "no such folder");
  EXPECT_EQ(json::parse(failed.out)["error"]["code"], "not_found");
}

TEST_F(Cli, ChatAnswersOnce) {
  const char* answer = "house (noun): a dwelling that serves as living quarters for one or more families.\n";
  Args args = {"chat", kModel, "--greedy"};
  Outcome piped = run_tessera(args, {.input = "What does house mean?\n"});
  EXPECT_EQ(piped.out, answer) << piped.err;
  args.push_back("What does house mean?");
  EXPECT_EQ(run_tessera(args).out, answer);
  args.push_back("--json");
  json object = json::parse(run_tessera(args).out);
  EXPECT_EQ(object["text"], std::string(answer, strlen(answer) - 1));
  EXPECT_THAT(object["reasoning"].get<std::string>(), HasSubstr("house"));
  EXPECT_EQ(object["finish_reason"], "stop");
}

TEST_F(Cli, ChatCallsFunctions) {
  std::string tools = file("tools.json", R"([{"type": "function", "function": {"name": "get_weather",
    "description": "Gets the current weather in a place.", "parameters": {"type": "object", "properties":
    {"location": {"type": "string", "description": "City name"}}, "required": ["location"]}}}])");
  Args args = {"chat", kModel, "--greedy", "--tools", tools, "What is the weather in Paris?"};
  EXPECT_EQ(run_tessera(args).out, "call get_weather({\"location\":\"Paris\"})\n");
  args.insert(args.end(), {"--tool-results", file("other.json", "{\"f\": 1}")});
  expect_error(run_tessera(args), 1, "get_weather");
  args.back() =
      file("results.json", R"({"get_weather": {"temperature": 21, "unit": "celsius", "condition": "sunny"}})");
  Outcome run = run_tessera(args);
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_THAT(run.out, AllOf(HasSubstr("call get_weather"), HasSubstr("21")));
}

TEST_F(Cli, SameSeedSameText) {
  Args args = {"generate", kModel,   "-p", "In the beginning", "--max-tokens",
               "12",       "--seed", "5",  "--temperature",    "1.5"};
  Outcome first = run_tessera(args), second = run_tessera(args);
  EXPECT_EQ(first.out, second.out);
  args[7] = "6";
  EXPECT_NE(run_tessera(args).out, first.out);
}

TEST_F(Cli, InterruptStopsTheAnswerAndNotTheChat) {
  TerminalProgram chat({"chat", kModel, "--ignore-eos", "--seed", "1"}, folder_);
  ASSERT_EQ(chat.missing("> "), "");
  chat.type("tell me about words\n");
  ASSERT_EQ(chat.missing("\x1b[2m"), "");  // the dimmed reasoning has begun
  chat.type("\x03");
  ASSERT_EQ(chat.missing("(stopped)"), "");
  ASSERT_EQ(chat.missing("> "), "");
  chat.type("half a line\x03");  // at the prompt it drops the line
  ASSERT_EQ(chat.missing("^C"), "");
  ASSERT_EQ(chat.missing("> "), "");
  EXPECT_TRUE(chat.alive());
  chat.type("\x04");
  EXPECT_EQ(chat.wait(), 0);
  EXPECT_THAT(read_file(folder_ / "tessera" / "history"), HasSubstr("tell"));
}

TEST_F(Cli, SlashCommands) {
  TerminalProgram chat({"chat", kModel, "--greedy"}, folder_);
  ASSERT_EQ(chat.missing("> "), "");
  chat.type("What does house mean?\n");
  ASSERT_EQ(chat.missing("a dwelling that serves as living quarters for one or more families."), "");
  std::string saved = folder_ / "talk.json";
  chat.type("/effort high\n/system Be brief.\n/save " + saved + "\n/tools\n");
  ASSERT_EQ(chat.missing("(none)"), "");
  json talk = json::parse(read_file(saved));
  EXPECT_EQ(talk["reasoning_effort"], "high");
  EXPECT_EQ(talk["system"], "Be brief.");
  ASSERT_EQ(talk["messages"].size(), 2u);
  EXPECT_EQ(talk["messages"][0]["content"], "What does house mean?");

  chat.type("/reset\n/load " + saved + "\n");
  EXPECT_EQ(chat.missing("(2 messages)"), "");
  chat.type("/save /dev/full\n");
  EXPECT_EQ(chat.missing("No space left"), "");
  struct stat st {};
  ASSERT_EQ(stat("/dev/full", &st), 0);
  EXPECT_TRUE(S_ISCHR(st.st_mode));  // written to, not replaced
  chat.type("/nonsense\n");
  EXPECT_EQ(chat.missing("no command /nonsense"), "");
  chat.type("/result 5\n");
  EXPECT_EQ(chat.missing("has not called a function"), "");
  chat.type("/help\n");
  EXPECT_EQ(chat.missing("/tools FILE"), "");
  chat.type("/exit\n");
  EXPECT_EQ(chat.wait(), 0);
}

// The same command everywhere: without a GPU it runs on the CPU, and a program that was built for GPUs says so, in a
// line.
TEST_F(Cli, WithoutAGpuItRunsOnTheCpu) {
  const Args command = {"generate", kModel, "-p", "The", "--max-tokens", "3", "--threads", "1", "--log-level", "info"};
  const Outcome run = run_tessera(command);
  EXPECT_EQ(run.exit_code, 0) << run.err;
  std::istringstream lines(run.err);
  int told = 0, on_gpu = 0;
  for (std::string line; std::getline(lines, line);) {
    told += line.find("running on the CPU: ") != std::string::npos;
    on_gpu += line.find("on the device") != std::string::npos;
  }
  EXPECT_EQ(told + on_gpu, 1) << run.err;
  const Outcome named = run_tessera({"generate", kModel, "-p", "The", "--max-tokens", "3", "--device", "cuda"});
  if (told == 1) expect_error(named, 1, "GPU");
}

// A driver older than the program's CUDA: named with both versions, and the CPU takes over.
TEST_F(Cli, ADriverThatIsTooOld) {
  if (std::string(TESSERA_OLD_DRIVER).empty()) GTEST_SKIP() << "a build without CUDA";
  setenv("LD_LIBRARY_PATH", TESSERA_OLD_DRIVER, 1);
  const Outcome automatic = run_tessera({"generate", kModel, "-p", "The", "--max-tokens", "3", "--threads", "1"});
  const Outcome named = run_tessera({"generate", kModel, "-p", "The", "--device", "cuda"});
  unsetenv("LD_LIBRARY_PATH");
  EXPECT_EQ(automatic.exit_code, 0);
  EXPECT_THAT(automatic.err, AllOf(HasSubstr("running on the CPU"), HasSubstr("driver is too old"), HasSubstr("12.4")));
  expect_error(named, 1, "driver is too old: it knows CUDA 12.4, and this program needs 13.");
}

// From config.json alone: how a plan splits each weight, what a rank holds and sends; or why there is no such plan.
TEST(Plan, IsPrintedOrRefused) {
  const fs::path folder = fs::path(::testing::TempDir()) / "plan_of_config";
  fs::create_directories(folder);
  fs::copy_file(kModel + "/config.json", folder / "config.json", fs::copy_options::overwrite_existing);
  const Outcome text = run_tessera({"plan", folder.string(), "--tp", "3", "--ep", "3"});
  EXPECT_EQ(text.exit_code, 0) << text.err;
  EXPECT_THAT(text.out, AllOf(HasSubstr("rows by query heads: rows 2+2+4"), HasSubstr("experts 6+5+5"),
                              HasSubstr("communication of a rank"), HasSubstr("cache a token")));
  auto parsed = [&](Args more) {
    Args args{"plan", folder.string(), "--json"};
    args.insert(args.end(), more.begin(), more.end());
    return json::parse(run_tessera(args).out);
  };
  const json sum = parsed({"--ep", "2", "--experts", "all-reduce"}), sent = parsed({"--ep", "2"}),
             own = parsed({"--ep", "2", "--attention", "dp"});
  EXPECT_EQ(sum["communication"]["experts"]["kind"], "all-reduce");
  EXPECT_EQ(own["communication"]["experts"]["kind"], "dispatch");
  EXPECT_EQ(own["communication"]["attention"]["kind"], "none");
  EXPECT_LT(own["communication"]["bytes_sent_a_token"], sent["communication"]["bytes_sent_a_token"]);
  EXPECT_EQ(own["ranks"][0]["query_heads"], 8);
  expect_error(run_tessera({"plan", folder.string(), "--tp", "9"}), 2,
               "--tp 9 is more than the 8 query heads; the nearest possible: --tp 8");
  expect_error(run_tessera({"plan", folder.string(), "--tp", "3", "--ep", "2"}), 2, "the larger must be a multiple");
}

}  // namespace
}  // namespace tessera::testing
