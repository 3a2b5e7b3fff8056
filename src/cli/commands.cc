#include "cli/commands.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <csignal>
#include <new>
#include <numeric>

#include "cli/lost_pages.h"
#include "cli/options.h"
#include "core/env.h"
#include "core/error.h"
#include "core/log.h"

namespace tessera::cli {

namespace {

constexpr Command kCommands[] = {
    {"chat", cmd_chat, "talk with a model, or ask it one question"},
    {"generate", cmd_generate, "continue a text"},
    {"batch", cmd_batch, "answer a file of requests over one running batch"},
    {"serve", cmd_serve, "answer over HTTP, as OpenAI's API does"},
    {"bench", cmd_bench, "measure how requests are served: throughput, latency"},
    {"inspect", cmd_inspect, "show a checkpoint: configuration, quantisation, tensors, memory"},
    {"plan", cmd_plan, "show how a model is split over many ranks, and what that costs"},
    {"launch", cmd_launch, "run a command as several processes, a GPU each"},
    {"eval", cmd_eval, "measure a model: perplexity of a text, exact answers to questions"},
    {"kernels", cmd_kernels, "list the kernels that serve this machine"},
    {"quantize", cmd_quantize, "convert a checkpoint's experts to MXFP4, or back to bf16"},
    {"download", cmd_download, "bring a model from the hub into the cache"},
    {"cache", cmd_cache, "list the hub's cache, remove parts of it"},
    {"version", cmd_version, "print the version"},
};

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i);
    for (size_t j = 1; j <= b.size(); ++j) {
      size_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1])});
      diagonal = above;
    }
  }
  return row[b.size()];
}

const Command& find_command(const std::string& name) {
  auto row = std::ranges::find(kCommands, name, &Command::name);
  if (row != std::end(kCommands)) return *row;
  auto distance = [&](const Command& c) {
    return std::string_view(c.name).starts_with(name) ? size_t{0} : edit_distance(name, c.name);
  };
  const Command& nearest = *std::ranges::min_element(kCommands, {}, distance);
  std::string hint = distance(nearest) <= 2 ? fmt::format("did you mean '{}'? ", nearest.name) : "";
  fail(ErrorCode::kInvalidArgument, "unknown command '{}'; {}'tessera --help' lists them", name, hint);
}

std::string overview() {
  std::string text =
      "tessera runs gpt-oss-class language models.\n\n"
      "usage: tessera COMMAND [ARGUMENTS]\n\ncommands:\n";
  for (const Command& c : kCommands) text += fmt::format("  {:<10} {}\n", c.name, c.summary);
  text +=
      "\nexamples:\n"
      "  tessera chat models/glossary                     talk with the model that comes with the source\n"
      "  tessera generate MODEL -p \"Once upon a time\"      continue a text\n"
      "  tessera inspect MODEL                            what is in a checkpoint, and what it needs\n"
      "  tessera COMMAND --help                           all about one command\n"
      "\nMODEL is a Hugging Face folder (config.json, tokenizer.json, *.safetensors) or a hub id, as "
      "openai/gpt-oss-20b or\n"
      "ORG/NAME@REVISION: that is taken from the hub's cache, and downloaded first when it is not there.\n"
      "Every command takes --json: one object on standard output, everything else on standard error.\n"
      "Exit codes: 0 done, 1 the job failed, 2 wrong usage, 130 stopped with Ctrl-C.\n"
      "\nenvironment:\n";
  for (const EnvRow& row : env_rows()) text += fmt::format("  {:<24} {}\n", row.name, row.help);
  return text;
}

// Messages are one line whatever a file name or a parser put into them.
std::string one_line(std::string_view message) {
  std::string line;
  for (char c : message) {
    if (c == '\n') {
      line += "; ";
    } else {
      line += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
    }
  }
  return line;
}

const char* code_name(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return "invalid_argument";
    case ErrorCode::kNotFound:
      return "not_found";
    case ErrorCode::kCorrupt:
      return "corrupt";
    case ErrorCode::kUnsupported:
      return "unsupported";
    case ErrorCode::kOutOfMemory:
      return "out_of_memory";
    case ErrorCode::kIo:
      return "io";
    case ErrorCode::kCancelled:
      return "cancelled";
  }
  return "unknown";
}

int exit_code(ErrorCode code) {
  if (code == ErrorCode::kInvalidArgument) return 2;
  return code == ErrorCode::kCancelled ? kInterruptedExit : 1;
}

int report(Invocation& call, const char* name, std::string_view message, int code) {
  std::string line = one_line(message);
  std::fprintf(stderr, "tessera: %s\n", line.c_str());
  if (call.json) {
    OrderedJson object;
    object["error"] = {{"code", name}, {"message", line}};
    call.out.put(object.dump(2, ' ', false, OrderedJson::error_handler_t::replace) + "\n");
  }
  return code;
}

// Runs `job`, and is where every exception of the program ends.
template <class Job>
int guarded(Invocation& call, Job job) {
  try {
    int code = job();
    call.out.check();
    return code;
  } catch (const PipeClosed&) {
    return 0;  // the reader has what it wanted
  } catch (const EndOfRank&) {
    return 0;  // rank 0 has
  } catch (const Error& e) {
    return report(call, code_name(e.code()), e.what(), exit_code(e.code()));
  } catch (const std::bad_alloc&) {
    return report(call, "out_of_memory",
                  "out of memory; a smaller --max-context needs less, and so does MXFP4 without --dequantize", 1);
  } catch (const std::exception& e) {
    return report(call, "internal", fmt::format("unexpected failure: {}", e.what()), 1);
  }
}

void add_common_options(CLI::App& app, bool& json) {
  app.add_flag("--json", json, "print one JSON object on standard output");
  app.add_option_function<std::string>(
         "--log-level", [](const std::string& level) { log::set_level(spdlog::level::from_str(level)); },
         "what is logged on standard error (default: TESSERA_LOG)")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error", "off"}));
  app.get_formatter()->column_width(32);
}

// Finds the command and runs it.
int dispatch(Invocation& call) {
  std::string name = call.args.empty() ? "" : call.args.front();
  bool help = name == "help" || name == "--help" || name == "-h";
  if (name.empty() || (help && call.args.size() == 1)) {
    call.out.text(overview());
    return help ? 0 : 2;
  }
  if (help) call.args = {call.args[1], "--help"};
  call.command = &find_command(call.args.front() == "--version" ? "version" : call.args.front());
  call.args.erase(call.args.begin());
  return call.command->run(call);
}

}  // namespace

std::span<const Command> commands() {
  return kCommands;
}

bool parse(CLI::App& app, Invocation& call) {
  std::vector<CLI::App*> leaves = app.get_subcommands([](CLI::App*) { return true; });
  if (leaves.empty()) leaves.push_back(&app);
  bool json = false;
  for (CLI::App* leaf : leaves) add_common_options(*leaf, json);
  try {
    std::vector<std::string> reversed(call.args.rbegin(), call.args.rend());  // as CLI11 takes them
    app.parse(std::move(reversed));
    call.json = json;
    return true;
  } catch (const CLI::CallForHelp&) {
    call.out.text(app.help());
    return false;
  } catch (const CLI::ParseError& e) {
    fail(ErrorCode::kInvalidArgument, "{}; see 'tessera {} --help'", e.what(), call.command->name);
  }
}

int run_command_line(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);  // writes report EPIPE instead
  explain_lost_pages();
  Output out;
  Invocation call{{argv + std::min(argc, 1), argv + argc}, out};
  call.json = std::ranges::find(call.args, "--json") != call.args.end();
  return guarded(call, [&] {
    init_logging();
    return dispatch(call);
  });
}

}  // namespace tessera::cli
