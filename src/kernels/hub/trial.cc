#include "kernels/hub/trial.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <filesystem>

#include "core/env.h"
#include "core/error.h"
#include "core/log.h"

namespace tessera::hub_kernels {

namespace fs = std::filesystem;

namespace {

constexpr int kFormat = 1;  // of what is remembered; a new one forgets the old
constexpr int kResultFd = 3;
constexpr size_t kMaxResultBytes = size_t{1} << 20;

class Fd {
 public:
  explicit Fd(int fd = -1) : fd_(fd) {}
  ~Fd() { reset(); }
  Fd(const Fd&) = delete;
  int get() const { return fd_; }
  void reset(int fd = -1) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = fd;
  }

 private:
  int fd_;
};

bool make_pipe(Fd& read_end, Fd& write_end) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return false;
  read_end.reset(ends[0]), write_end.reset(ends[1]);
  return true;
}

// The child's standard input is the spec, descriptor 3 takes the result, and what a kernel prints goes nowhere.
pid_t start(const std::string& program, int spec_fd, int result_fd) {
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_adddup2(&files, spec_fd, STDIN_FILENO);
  posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_addopen(&files, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_adddup2(&files, result_fd, kResultFd);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);  // so that what it starts ends with it
  std::string words[] = {program, "kernels", "try"};
  char* argv[] = {words[0].data(), words[1].data(), words[2].data(), nullptr};
  pid_t pid = -1;
  if (posix_spawn(&pid, program.c_str(), &files, &attributes, argv, environ) != 0) pid = -1;
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&files);
  return pid;
}

// Everything until the end of the file; false when the time is up first.
bool read_until(int fd, double timeout_s, std::string& text) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(timeout_s);
  char buffer[1 << 14];
  while (text.size() < kMaxResultBytes) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
    pollfd waiting{fd, POLLIN, 0};
    const int ready = left.count() > 0 ? poll(&waiting, 1, static_cast<int>(left.count())) : 0;
    if (ready < 0 && errno == EINTR) continue;
    if (ready == 0) return false;
    const ssize_t n = ::read(fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return true;
    text.append(buffer, static_cast<size_t>(n));
  }
  return true;
}

TrialResult not_made(std::string why) {
  return {.ok = false, .final = false, .why = std::move(why), .times = {}};
}

TrialResult judge(const std::string& text, int status, bool in_time, double timeout_s) {
  if (!in_time) return {.why = fmt::format("it did not return within {} s, and was ended", timeout_s), .times = {}};
  if (WIFSIGNALED(status)) {
    return {.why = fmt::format("it crashed: {}", strsignal(WTERMSIG(status))), .times = {}};
  }
  const Json json = Json::parse(text, nullptr, false);
  if (!json.is_discarded() && json.is_object()) return TrialResult::parse(json);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 127) return not_made("the process for trying it could not start");
  return {.why = fmt::format("it ended the process with exit code {}", WEXITSTATUS(status)), .times = {}};
}

}  // namespace

Json TrialSpec::json() const {
  return {{"library", library}, {"sha256", sha256}, {"layer", layer}, {"function", function},
          {"device", device},   {"key", key},       {"timed", timed}};
}

TrialSpec TrialSpec::parse(const Json& json) {
  try {
    return {.library = json.at("library"),
            .sha256 = json.at("sha256"),
            .layer = json.at("layer"),
            .function = json.at("function"),
            .device = json.at("device"),
            .key = json.at("key").get<Key>(),
            .timed = json.at("timed")};
  } catch (const Json::exception& e) {
    fail(ErrorCode::kInvalidArgument, "not the description of a trial: {}", e.what());
  }
}

Json TrialResult::json() const {
  Json list = Json::array();
  for (const TrialTime& t : times)
    list.push_back({{"tokens", t.tokens}, {"hub_us", t.hub_us}, {"builtin_us", t.builtin_us}, {"builtin", t.builtin}});
  return {{"ok", ok}, {"final", final}, {"why", why}, {"times", list}};
}

TrialResult TrialResult::parse(const Json& json) {
  try {
    TrialResult result{.ok = json.at("ok"), .final = json.at("final"), .why = json.at("why"), .times = {}};
    for (const Json& t : json.at("times"))
      result.times.push_back({t.at("tokens"), t.at("hub_us"), t.at("builtin_us"), t.at("builtin")});
    if (!result.ok && result.why.empty()) result.why = "it failed";
    return result;
  } catch (const Json::exception&) {
    return not_made("the trial's result cannot be read");
  }
}

TrialResult try_in_child(const TrialSpec& spec, const std::string& program, double timeout_s) {
  if (program.empty()) {
    return not_made(
        "it cannot be tried: kernels are tried in a process of the tessera program, which is not in PATH; set "
        "TESSERA_KERNEL_CHECKER to it");
  }
  // A file, not a pipe: nobody waits for a child that does not read.
  Fd input(memfd_create("spec", MFD_CLOEXEC)), result_read, result_write;
  const std::string text = spec.json().dump();
  if (input.get() < 0 || ::pwrite(input.get(), text.data(), text.size(), 0) != static_cast<ssize_t>(text.size()) ||
      !make_pipe(result_read, result_write)) {
    return not_made(fmt::format("it cannot be tried: {}", std::strerror(errno)));
  }
  const pid_t pid = start(program, input.get(), result_write.get());
  if (pid < 0) return not_made(fmt::format("it cannot be tried: {} does not start", program));
  result_write.reset();
  std::string answer;
  const bool in_time = read_until(result_read.get(), timeout_s, answer);
  if (!in_time) kill(-pid, SIGKILL);
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  kill(-pid, SIGKILL);  // what it left behind
  return judge(answer, status, in_time, timeout_s);
}

std::string checker_program() {
  std::error_code none;
  if (std::string given = env_string(Env::kKernelChecker); !given.empty()) return given;
  const fs::path self = fs::read_symlink("/proc/self/exe", none);
  if (self.filename() == "tessera") return self.string();
  std::string path = env_string(Env::kPath);
  for (size_t begin = 0; begin < path.size();) {
    const size_t end = std::min(path.find(':', begin), path.size());
    const fs::path candidate = fs::path(path.substr(begin, end - begin)) / "tessera";
    if (candidate.is_absolute() && access(candidate.c_str(), X_OK) == 0) return candidate.string();
    begin = end + 1;
  }
  return "";
}

TrialMemory::TrialMemory(std::string folder) : folder_(std::move(folder)) {
  if (!folder_.empty()) return;
  const std::string cache = env_string(Env::kCacheHome), home = env_string(Env::kHome);
  if (!cache.empty()) {
    folder_ = cache + "/tessera/kernels";
  } else if (!home.empty()) {
    folder_ = home + "/.cache/tessera/kernels";
  }
}

std::string TrialMemory::path(const TrialSpec& spec, const std::string& device_name) const {
  std::string name = fmt::format("{}-{}-{}", kFormat, spec.function.substr(0, 60), device_name.substr(0, 60));
  size_t used = spec.key.size();
  while (used > 0 && spec.key[used - 1] == 0) --used;
  for (size_t i = 0; i < used; ++i) name += fmt::format("-{:x}", spec.key[i]);
  for (char& c : name)
    if (!std::isalnum(static_cast<unsigned char>(c)) && c != '-' && c != '_') c = '_';
  return fmt::format("{}/{}/{}.json", folder_, spec.sha256, name);
}

bool TrialMemory::find(const TrialSpec& spec, const std::string& device_name, TrialResult& result) const {
  if (folder_.empty()) return false;
  try {
    result = TrialResult::parse(read_json_file(path(spec, device_name), 1 << 20));
    return result.final;
  } catch (const Error&) {
    return false;
  }
}

void TrialMemory::store(const TrialSpec& spec, const std::string& device_name, const TrialResult& result) const {
  if (folder_.empty()) return;
  const std::string file = path(spec, device_name);
  std::error_code error;
  fs::create_directories(fs::path(file).parent_path(), error);
  try {
    write_text_file(file, result.json().dump() + "\n");
  } catch (const Error& e) {
    log::warn("the trial of a kernel is not remembered: {}", e.what());
  }
}

}  // namespace tessera::hub_kernels
