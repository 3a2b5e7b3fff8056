// tessera launch: the ranks of a run as processes of this machine, as torchrun and mpirun start them.
#include <CLI/CLI.hpp>
#include <charconv>

#include "cli/commands.h"
#include "core/error.h"
#include "parallel/launch.h"

namespace tessera::cli {

namespace {

constexpr const char* kHelp =
    "Runs a command as N processes, one a GPU, that compute together.\n\n"
    "Usage: tessera launch N COMMAND [ARGUMENTS]\n\n"
    "Without it, --tp and --ep start ranks as threads of one process. Processes keep a rank that dies from taking\n"
    "memory of the others with it; when one ends, all end, and one line says which and why. torchrun, mpirun and "
    "Slurm\n"
    "start ranks too, on many hosts. --json and all other arguments are COMMAND's.\n\n"
    "example:\n  tessera launch 2 bench latency MODEL --tp 2 --device cuda\n";

}  // namespace

int cmd_launch(Invocation& call) {
  if (call.args.empty() || call.args[0] == "--help" || call.args[0] == "-h") {
    call.out.text(kHelp);
    return call.args.empty() ? 2 : 0;
  }
  const std::string& text = call.args[0];
  int ranks = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), ranks);
  if (error != std::errc() || end != text.data() + text.size() || ranks < 1 || ranks > 64 || call.args.size() < 2)
    fail(ErrorCode::kInvalidArgument,
         "launch takes a number of ranks, 1 to 64, and a command; see 'tessera launch -h'");
  std::string program = "tessera";
  std::vector<char*> arguments{program.data()};
  for (size_t i = 1; i < call.args.size(); ++i) arguments.push_back(call.args[i].data());
  arguments.push_back(nullptr);
  return launch_local_ranks(ranks, arguments.data());
}

}  // namespace tessera::cli
