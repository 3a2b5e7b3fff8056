#include "cli/program.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdlib>

namespace tessera::testing {

namespace {

using Clock = std::chrono::steady_clock;

[[noreturn]] void exec_tessera(const std::vector<std::string>& args) {
  std::vector<char*> argv = {const_cast<char*>("tessera")};
  for (const std::string& arg : args) argv.push_back(const_cast<char*>(arg.c_str()));
  argv.push_back(nullptr);
  execv(TESSERA_PROGRAM, argv.data());
  _exit(127);
}

int decoded(int status) {
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

struct Pipe {
  int read_end = -1, write_end = -1;
  Pipe() {
    std::array<int, 2> ends{};
    EXPECT_EQ(pipe2(ends.data(), O_CLOEXEC), 0);
    read_end = ends[0], write_end = ends[1];
  }
  ~Pipe() { close_read(), close_write(); }
  void close_read() { shut(read_end); }
  void close_write() { shut(write_end); }
  static void shut(int& fd) {
    if (fd >= 0) close(fd);
    fd = -1;
  }
};

// Feeds `input` and drains both outputs until they end.
void converse(Pipe& in, Pipe& out, Pipe& err, const std::string& input, Outcome& outcome) {
  size_t fed = 0;
  if (input.empty()) in.close_write();
  while (out.read_end >= 0 || err.read_end >= 0) {
    std::array<pollfd, 3> fds = {
        pollfd{in.write_end, POLLOUT, 0}, {out.read_end, POLLIN, 0}, {err.read_end, POLLIN, 0}};
    if (poll(fds.data(), fds.size(), 60000) <= 0) break;
    if (fds[0].revents) {
      ssize_t n = write(in.write_end, input.data() + fed, input.size() - fed);
      fed += n > 0 ? static_cast<size_t>(n) : 0;
      if (n < 0 || fed == input.size()) in.close_write();
    }
    auto drain = [](pollfd& fd, Pipe& pipe, std::string& text) {
      if (!fd.revents) return;
      std::array<char, 4096> buffer{};
      ssize_t n = read(fd.fd, buffer.data(), buffer.size());
      if (n > 0) text.append(buffer.data(), static_cast<size_t>(n));
      if (n <= 0) pipe.close_read();
    };
    drain(fds[1], out, outcome.out);
    drain(fds[2], err, outcome.err);
  }
}

}  // namespace

Outcome run_tessera(const std::vector<std::string>& args, const RunSettings& settings) {
  signal(SIGPIPE, SIG_IGN);
  Pipe in, out, err;
  if (settings.close_stdout_reader) out.close_read();
  int pid = fork();
  if (pid == 0) {
    signal(SIGPIPE, SIG_DFL);
    alarm(60);  // survives exec: nothing hangs the tests
    int target = out.write_end;
    if (!settings.stdout_path.empty()) target = open(settings.stdout_path.c_str(), O_WRONLY | O_CREAT, 0600);
    dup2(in.read_end, STDIN_FILENO), dup2(target, STDOUT_FILENO), dup2(err.write_end, STDERR_FILENO);
    exec_tessera(args);
  }
  in.close_read(), out.close_write(), err.close_write();
  Outcome outcome;
  converse(in, out, err, settings.input, outcome);
  int status = 0;
  waitpid(pid, &status, 0);
  outcome.exit_code = decoded(status);
  return outcome;
}

int run_and_kill(const std::vector<std::string>& args, const std::function<bool()>& now) {
  const int pid = fork();
  if (pid == 0) {
    alarm(60);
    const int null = open("/dev/null", O_RDWR);
    for (int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) dup2(null, fd);
    exec_tessera(args);
  }
  int status = 0;
  while (waitpid(pid, &status, WNOHANG) == 0) {
    if (now()) {
      kill(pid, SIGKILL);
      waitpid(pid, &status, 0);
      break;
    }
    usleep(1000);
  }
  return decoded(status);
}

TerminalProgram::TerminalProgram(const std::vector<std::string>& args, const std::string& state_folder) {
  winsize size{24, 80, 0, 0};
  pid_ = forkpty(&terminal_, nullptr, nullptr, &size);
  if (pid_ == 0) {
    setenv("TERM", "xterm", 1);
    setenv("XDG_STATE_HOME", state_folder.c_str(), 1);
    alarm(120);
    exec_tessera(args);
  }
}

TerminalProgram::~TerminalProgram() {
  if (alive()) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  close(terminal_);
}

void TerminalProgram::type(const std::string& keys) {
  ASSERT_EQ(write(terminal_, keys.data(), keys.size()), static_cast<ssize_t>(keys.size()));
}

std::string TerminalProgram::missing(const std::string& text) {
  auto deadline = Clock::now() + std::chrono::seconds(30);
  for (;;) {
    size_t at = unseen_.find(text);
    if (at != std::string::npos) {
      unseen_.erase(0, at + text.size());
      return "";
    }
    pollfd fd{terminal_, POLLIN, 0};
    std::array<char, 4096> buffer{};
    ssize_t n = -1;
    if (Clock::now() < deadline && poll(&fd, 1, 500) > 0) {
      n = read(terminal_, buffer.data(), buffer.size());
      if (n <= 0) return "'" + text + "' never came, only: " + unseen_;
    }
    if (n > 0) unseen_.append(buffer.data(), static_cast<size_t>(n));
    if (Clock::now() >= deadline) return "'" + text + "' did not come in time, only: " + unseen_;
  }
}

bool TerminalProgram::alive() {
  if (pid_ > 0 && status_ < 0) {
    int status = 0;
    if (waitpid(pid_, &status, WNOHANG) == pid_) status_ = decoded(status);
  }
  return status_ < 0;
}

int TerminalProgram::wait() {
  auto deadline = Clock::now() + std::chrono::seconds(30);
  std::array<char, 4096> buffer{};
  while (alive() && Clock::now() < deadline) {
    pollfd fd{terminal_, POLLIN, 0};  // a full terminal would block the program
    if (poll(&fd, 1, 20) > 0 && read(terminal_, buffer.data(), buffer.size()) <= 0) usleep(10000);
  }
  return status_;
}

}  // namespace tessera::testing
