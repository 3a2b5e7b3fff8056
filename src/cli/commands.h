// The table of commands, and what every command is given. A command is one file (cmd_<name>.cc) and one row.
//
// Exit codes: 0 done, 1 the job failed, 2 wrong usage, 130 stopped with Ctrl-C. An error is one line on stderr; with
// --json also one object {"error": {"code", "message"}} on stdout.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "cli/output.h"

namespace CLI {
class App;
}

namespace tessera::cli {

inline constexpr int kInterruptedExit = 130;  // 128 + SIGINT, as shells count

struct Command;

// One run of a command.
struct Invocation {
  std::vector<std::string> args;  // after the command's name
  Output& out;                    // standard output
  const Command* command = nullptr;
  bool json = false;  // --json was given
};

struct Command {
  const char* name;
  int (*run)(Invocation&);  // returns the exit code; throws tessera::Error
  const char* summary;      // one line, for the list of commands
};

std::span<const Command> commands();

int cmd_chat(Invocation&);
int cmd_generate(Invocation&);
int cmd_batch(Invocation&);
int cmd_bench(Invocation&);
int cmd_inspect(Invocation&);
int cmd_launch(Invocation&);
int cmd_plan(Invocation&);
int cmd_eval(Invocation&);
int cmd_kernels(Invocation&);
int cmd_quantize(Invocation&);
int cmd_download(Invocation&);
int cmd_cache(Invocation&);
int cmd_serve(Invocation&);
int cmd_version(Invocation&);

// Reads the arguments into the options that `app` declares. False: help was asked for and has been printed. Throws
// kInvalidArgument with a pointer to the help.
[[nodiscard]] bool parse(CLI::App& app, Invocation& call);

// The whole program: finds the command, runs it and turns every exception into a line and an exit code.
int run_command_line(int argc, char** argv);

}  // namespace tessera::cli
