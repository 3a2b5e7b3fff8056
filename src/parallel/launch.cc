#include "parallel/launch.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "core/env.h"
#include "core/error.h"
#include "parallel/socket.h"

namespace tessera {

namespace {

using Clock = std::chrono::steady_clock;

// After rank 0 was lost the others learn of it within moments.
constexpr auto kGrace = std::chrono::seconds(3);
// After it ended well the others have only to say goodbye; when another was lost, it answers its clients and says why.
constexpr auto kFarewell = std::chrono::seconds(10);
constexpr size_t kKept = 2000;  // bytes of a rank's last words

struct Child {
  pid_t process = -1;
  bool running = false;
  int status = 0;
  bool ended_by_us = false;
  Fd errors;  // its stderr, or none where it has ours
  std::string last_words;
};

std::string describe(int status) {
  if (WIFSIGNALED(status))
    return fmt::format("killed by signal {} ({})", WTERMSIG(status), strsignal(WTERMSIG(status)));
  return fmt::format("ended with status {}", WEXITSTATUS(status));
}

void put_env(Env id, const std::string& value) {
  for (const EnvRow& row : env_rows())
    if (row.id == id) setenv(row.name, value.c_str(), 1);
}

class Ranks {
 public:
  Ranks(int size, char** argv) : children_(size), argv_(argv), parent_(getpid()) {
    sigemptyset(&watched_);
    for (int signal : {SIGCHLD, SIGINT, SIGTERM, SIGHUP, SIGQUIT}) sigaddset(&watched_, signal);
    sigprocmask(SIG_BLOCK, &watched_, &before_);
    signals_ = Fd(signalfd(-1, &watched_, SFD_CLOEXEC | SFD_NONBLOCK));
    listener_ = listen_on("127.0.0.1", 0);
  }
  ~Ranks() {
    kill_all();
    sigprocmask(SIG_SETMASK, &before_, nullptr);
  }

  int run() {
    for (int r = 0; r < static_cast<int>(children_.size()); ++r) start(r);
    listener_ = Fd();
    while (running() > 0) {
      wait();
      reap();
      decide();
    }
    return report();
  }

 private:
  int running() const {
    return static_cast<int>(
        std::count_if(children_.begin(), children_.end(), [](const Child& c) { return c.running; }));
  }

  void start(int rank) {
    Child& child = children_[rank];
    int ends[2] = {-1, -1};
    const std::string log = env_string(Env::kLog);
    const bool quiet = rank != 0 && (log == "warn" || log == "error" || log == "off");
    if (quiet && pipe2(ends, O_CLOEXEC) != 0) fail(ErrorCode::kIo, "no pipe for rank {}: {}", rank, strerror(errno));
    Fd writing(ends[1]);
    child.errors = Fd(ends[0]);
    if (quiet) fcntl(ends[0], F_SETFL, O_NONBLOCK);
    child.process = fork();
    if (child.process < 0) fail(ErrorCode::kIo, "rank {} cannot be started: {}", rank, strerror(errno));
    if (child.process == 0) become(rank, writing.get());
    child.running = true;
  }

  // In the child.
  [[noreturn]] void become(int rank, int errors) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent_) _exit(1);  // it died before the line above
    put_env(Env::kRank, std::to_string(rank));
    put_env(Env::kLocalRank, std::to_string(rank));
    put_env(Env::kWorldSize, std::to_string(children_.size()));
    put_env(Env::kMasterAddress, "127.0.0.1");
    put_env(Env::kMasterPort, std::to_string(port_of(listener_)));
    unsetenv("TORCHELASTIC_USE_AGENT_STORE");
    if (rank == 0) {
      fcntl(listener_.get(), F_SETFD, 0);
      put_env(Env::kListenFd, std::to_string(listener_.get()));
    } else {
      setpgid(0, 0);  // Ctrl-C is rank 0's to answer
      const int nothing = open("/dev/null", O_RDWR);
      dup2(nothing, STDIN_FILENO);
      dup2(nothing, STDOUT_FILENO);
      if (errors >= 0) dup2(errors, STDERR_FILENO);
      close(nothing);
    }
    sigprocmask(SIG_SETMASK, &before_, nullptr);
    execv("/proc/self/exe", argv_);
    _exit(127);
  }

  void wait() {
    std::vector<pollfd> entries{{.fd = signals_.get(), .events = POLLIN, .revents = 0}};
    for (const Child& child : children_)
      if (child.errors) entries.push_back({.fd = child.errors.get(), .events = POLLIN, .revents = 0});
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline_ - Clock::now()).count();
    poll(entries.data(), entries.size(), ending_ ? static_cast<int>(std::clamp<int64_t>(left, 0, 100000)) : -1);
    signalfd_siginfo info;
    while (read(signals_.get(), &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
      // A key pressed on the terminal reached rank 0 too.
      const bool from_terminal = info.ssi_code == SI_KERNEL;
      if (info.ssi_signo != SIGCHLD && !from_terminal && children_[0].running)
        kill(children_[0].process, static_cast<int>(info.ssi_signo));
    }
    for (Child& child : children_) listen(child);
  }

  static void listen(Child& child) {
    char bytes[1024];
    while (child.errors) {
      const ssize_t got = read(child.errors.get(), bytes, sizeof bytes);
      if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
      if (got <= 0) {
        child.errors = Fd();
        return;
      }
      child.last_words.append(bytes, static_cast<size_t>(got));
      if (child.last_words.size() > kKept) child.last_words.erase(0, child.last_words.size() - kKept);
    }
  }

  void reap() {
    for (size_t r = 0; r < children_.size(); ++r) {
      Child& child = children_[r];
      if (!child.running || waitpid(child.process, &child.status, WNOHANG) != child.process) continue;
      child.running = false;
      listen(child);
      if (child.status != 0 && first_ < 0) first_ = static_cast<int>(r);
    }
  }

  // What an end means for the others.
  void decide() {
    const bool failed = first_ >= 0, over = !children_[0].running;
    if (!ending_ && (failed || over)) {
      ending_ = true;
      deadline_ = Clock::now() + (first_ == 0 ? kGrace : kFarewell);
    }
    if (!ending_ || Clock::now() < deadline_) return;
    for (size_t r = 0; r < children_.size(); ++r)
      if (children_[r].running && first_ < 0) hung_ = first_ = static_cast<int>(r);
    kill_all();
  }

  void kill_all() {
    for (Child& child : children_)
      if (child.running) child.ended_by_us = kill(child.process, SIGKILL) == 0;
    for (Child& child : children_)
      if (child.running) {
        waitpid(child.process, &child.status, 0);
        child.running = false;
      }
  }

  // A process that dies closes its connections before it can be waited for, so those who hear of it may end earlier.
  void find_cause() {
    const Child& first = children_[first_];
    if (WIFSIGNALED(first.status) || hung_ >= 0) return;
    for (size_t r = 0; r < children_.size(); ++r) {
      const Child& other = children_[r];
      if (!WIFSIGNALED(other.status) || other.ended_by_us) continue;
      const std::string named = fmt::format("rank {} of {}: ", r, children_.size());
      if (WTERMSIG(other.status) != SIGKILL && first.last_words.find(named) == std::string::npos) continue;
      first_ = static_cast<int>(r);
      return;
    }
  }

  int report() {
    if (first_ < 0) return 0;
    find_cause();
    const Child& zero = children_[0];
    // Rank 0 has said why, unless it could not.
    if (WIFEXITED(zero.status) && zero.status != 0) return WEXITSTATUS(zero.status);
    const Child& first = children_[first_];
    std::string cause = hung_ >= 0 ? fmt::format("did not end with rank 0") : describe(first.status);
    if (std::string words = last_line(first.last_words); !words.empty() && hung_ < 0) cause += ": " + words;
    std::fprintf(stderr, "tessera: rank %d of %zu: %s\n", first_, children_.size(), cause.c_str());
    return 1;
  }
  static std::string last_line(std::string words) {
    while (!words.empty() && words.back() == '\n') words.pop_back();
    const size_t at = words.rfind('\n');
    return at == std::string::npos ? words : words.substr(at + 1);
  }

  std::vector<Child> children_;
  char** argv_;
  pid_t parent_;
  sigset_t watched_, before_;
  Fd signals_, listener_;
  int first_ = -1;  // the rank that ended badly before all others
  int hung_ = -1;   // or the one that did not end
  bool ending_ = false;
  Clock::time_point deadline_{};
};

}  // namespace

int launch_local_ranks(int size, char** argv) {
  TS_CHECK(size >= 1);
  return Ranks(size, argv).run();
}

}  // namespace tessera
