// tessera version: what this program is.
#include <CLI/CLI.hpp>

#include "cli/commands.h"

namespace tessera::cli {

int cmd_version(Invocation& call) {
  CLI::App app{"Prints the version of tessera and what it was built with.", "tessera version"};
  app.footer("\nexample:\n  tessera version --json");
  if (!parse(app, call)) return 0;
  if (call.json) {
    call.out.json({{"version", TESSERA_VERSION}, {"compiler", __VERSION__}});
  } else {
    call.out.text("tessera " TESSERA_VERSION " (compiler " __VERSION__ ")\n");
  }
  return 0;
}

}  // namespace tessera::cli
