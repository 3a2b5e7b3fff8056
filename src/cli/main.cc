// The program `tessera`.
#include "cli/commands.h"

int main(int argc, char** argv) {
  return tessera::cli::run_command_line(argc, argv);
}
