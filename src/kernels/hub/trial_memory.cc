#include "kernels/hub/trial_memory.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <vector>

#include "core/error.h"

namespace tessera::hub_kernels {

namespace {

constexpr int64_t kPage = 4096;
constexpr int64_t kGuard = 16 * kPage;
constexpr char kPattern = 0x5a;

int64_t round_up(int64_t bytes) {
  return (bytes + kPage - 1) / kPage * kPage;
}

// What a signal handler can reach.
const GuardedMemory* watched = nullptr;
int fault_output = -1;

}  // namespace

void describe_fault(const GuardedMemory& memory, const void* address, char* text, size_t size) {
  const char* at = static_cast<const char*>(address);
  for (const GuardedMemory::Block& b : memory.blocks_) {
    if (at < b.map || at >= b.map + b.map_bytes) continue;
    const char* end = b.data + b.bytes;
    if (at >= end) {
      std::snprintf(text, size, "it reads or writes %lld bytes past the end of `%s`",
                    static_cast<long long>(at - end + 1), b.name.c_str());
    } else if (at < b.data) {
      std::snprintf(text, size, "it reads or writes %lld bytes before `%s`", static_cast<long long>(b.data - at),
                    b.name.c_str());
    } else {
      std::snprintf(text, size, "it writes to its input `%s`", b.name.c_str());
    }
    return;
  }
  std::snprintf(text, size, "it crashed: segmentation fault at address %p", address);
}

namespace {

void on_fault(int, siginfo_t* info, void*) {
  char why[256], text[400];
  describe_fault(*watched, info->si_addr, why, sizeof why);
  const int n = std::snprintf(text, sizeof text, R"({"ok":false,"final":true,"why":"%s","times":[]})", why);
  if (::write(fault_output, text, static_cast<size_t>(n)) != n) _exit(2);
  _exit(0);
}

}  // namespace

void GuardedMemory::report_faults_to(int out) {
  watched = this;
  fault_output = out;
  static char stack[1 << 16];  // of the handler: the kernel's own may be what overflowed
  const stack_t alternative{.ss_sp = stack, .ss_flags = 0, .ss_size = sizeof stack};
  sigaltstack(&alternative, nullptr);
  struct sigaction action {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(SIGSEGV, &action, nullptr);
  sigaction(SIGBUS, &action, nullptr);
}

GuardedMemory::~GuardedMemory() {
  if (watched == this) {
    signal(SIGSEGV, SIG_DFL);
    signal(SIGBUS, SIG_DFL);
    watched = nullptr;
  }
  for (const Block& b : blocks_) {
    if (context_.asynchronous()) {
      context_.release(b.map);
    } else {
      munmap(b.map, static_cast<size_t>(b.map_bytes));
    }
  }
}

Tensor GuardedMemory::place(const Tensor& host, const char* name, Role role) {
  if (!host.defined()) return host;
  Tensor t = host;
  t.device = context_.device();
  const int64_t bytes = host.bytes(), inner = round_up(bytes), map_bytes = inner + 2 * kGuard;
  Block b{.name = name,
          .role = role,
          .map = nullptr,
          .map_bytes = map_bytes,
          .guard = kGuard,
          .bytes = bytes,
          .before = {}};
  if (context_.asynchronous()) {
    std::vector<char> image(static_cast<size_t>(map_bytes), kPattern);
    b.map = static_cast<char*>(context_.allocate(map_bytes));
    b.data = b.map + kGuard;
    if (role == Role::kOut) {
      std::memset(image.data() + kGuard, 0xff, static_cast<size_t>(bytes));
    } else {
      std::memcpy(image.data() + kGuard, host.data, static_cast<size_t>(bytes));
    }
    context_.to_device(b.map, image.data(), map_bytes);
    context_.synchronize();
    if (role == Role::kIn) b.before.assign(host.as<char>(), static_cast<size_t>(bytes));
  } else {
    void* map = mmap(nullptr, static_cast<size_t>(map_bytes), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) fail(ErrorCode::kOutOfMemory, "no {} bytes for trying a kernel", map_bytes);
    b.map = static_cast<char*>(map);
    mprotect(b.map + kGuard, static_cast<size_t>(inner), PROT_READ | PROT_WRITE);
    std::memset(b.map + kGuard, kPattern, static_cast<size_t>(inner));
    b.data = b.map + kGuard + (at_end_ ? inner - bytes : 0);
    if (role == Role::kOut) {
      std::memset(b.data, 0xff, static_cast<size_t>(bytes));
    } else {
      std::memcpy(b.data, host.data, static_cast<size_t>(bytes));
    }
  }
  t.data = b.data;
  blocks_.push_back(std::move(b));
  return t;
}

void GuardedMemory::protect() {
  if (context_.asynchronous()) return;
  for (const Block& b : blocks_)
    if (b.role == Role::kIn) mprotect(b.map + kGuard, static_cast<size_t>(b.map_bytes - 2 * kGuard), PROT_READ);
}

std::string GuardedMemory::damage() const {
  std::vector<char> copy;
  for (const Block& b : blocks_) {
    const char* inner = b.map + kGuard;  // on a CPU the guards themselves cannot be touched
    int64_t bytes = b.map_bytes - 2 * kGuard;
    if (context_.asynchronous()) {
      copy.resize(static_cast<size_t>(b.map_bytes));
      context_.to_host(copy.data(), b.map, b.map_bytes);
      context_.synchronize();
      inner = copy.data();
      bytes = b.map_bytes;
    }
    const int64_t begin = context_.asynchronous() ? kGuard : b.data - inner, end = begin + b.bytes;
    for (int64_t i = 0; i < bytes; ++i) {
      if ((i >= begin && i < end) || inner[i] == kPattern) continue;
      return i < begin ? fmt::format("it writes {} bytes before `{}`", begin - i, b.name)
                       : fmt::format("it writes {} bytes past the end of `{}`", i - end + 1, b.name);
    }
    if (!b.before.empty() && std::memcmp(inner + begin, b.before.data(), b.before.size()) != 0)
      return fmt::format("it writes to its input `{}`", b.name);
  }
  return "";
}

void GuardedMemory::read(const Tensor& placed, const Tensor& host) const {
  if (context_.asynchronous()) {
    context_.to_host(host.data, placed.data, placed.bytes());
    context_.synchronize();
  } else {
    std::memcpy(host.data, placed.data, static_cast<size_t>(placed.bytes()));
  }
}

}  // namespace tessera::hub_kernels
