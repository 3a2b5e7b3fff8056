// Runs the program as a user does: with pipes, or on a pseudo-terminal.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace tessera::testing {

struct Outcome {
  int exit_code = -1;  // 128 + n after signal n
  std::string out, err;
};

struct RunSettings {
  std::string input;                 // standard input
  std::string stdout_path;           // standard output goes there instead of into Outcome::out
  bool close_stdout_reader = false;  // standard output is a pipe that nobody reads
};

// Runs `tessera` with these arguments, at most a minute.
Outcome run_tessera(const std::vector<std::string>& args, const RunSettings& settings = {});

// Runs `tessera` without input and output, asks `now` every millisecond, and kills it (SIGKILL) when that is true. Exit
// code; 128 + SIGKILL when it was killed. At most a minute.
int run_and_kill(const std::vector<std::string>& args, const std::function<bool()>& now);

// `tessera` on a terminal of 80 columns, with an empty HOME and XDG_STATE_HOME in `state_folder`.
class TerminalProgram {
 public:
  TerminalProgram(const std::vector<std::string>& args, const std::string& state_folder);
  ~TerminalProgram();
  TerminalProgram(const TerminalProgram&) = delete;
  TerminalProgram& operator=(const TerminalProgram&) = delete;

  void type(const std::string& keys);
  // Waits up to 30 seconds for `text` after what was seen before; "" when it came, else all that came instead.
  std::string missing(const std::string& text);
  // Exit code, after waiting up to 30 seconds; -1 when it still runs.
  int wait();
  bool alive();

 private:
  int terminal_ = -1;
  int pid_ = -1;
  int status_ = -1;
  std::string unseen_;
};

}  // namespace tessera::testing
