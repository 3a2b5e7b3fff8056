#include "core/device_context.h"

#include <sys/mman.h>
#include <unistd.h>

#include <charconv>
#include <cstring>

#include "core/error.h"
#include "core/log.h"

namespace tessera {

namespace {

class CpuContext final : public DeviceContext {
 public:
  Device device() const override { return {}; }
  DeviceInfo info() const override {
    const int64_t page = sysconf(_SC_PAGESIZE);
    return {
        .name = "CPU", .total_bytes = sysconf(_SC_PHYS_PAGES) * page, .free_bytes = sysconf(_SC_AVPHYS_PAGES) * page};
  }
  bool asynchronous() const override { return false; }
  void make_current() override {}
  void* allocate(int64_t bytes) override {
    // The length is kept in a page before the block, which also keeps the block aligned.
    const int64_t whole = bytes + kHeader;
    void* p = mmap(nullptr, static_cast<size_t>(whole), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
      fail(ErrorCode::kOutOfMemory,
           "cannot allocate {:.1f} MiB of memory; close other programs or use a smaller model or context",
           static_cast<double>(bytes) / (1 << 20));
    }
    madvise(p, static_cast<size_t>(whole), MADV_HUGEPAGE);  // experts picked at random defeat the TLB with 4 KiB pages
    std::memcpy(p, &whole, sizeof whole);
    return static_cast<char*>(p) + kHeader;
  }
  void release(void* memory) noexcept override {
    if (!memory) return;
    char* base = static_cast<char*>(memory) - kHeader;
    int64_t whole = 0;
    std::memcpy(&whole, base, sizeof whole);
    munmap(base, static_cast<size_t>(whole));
  }
  void* allocate_host(int64_t bytes) override { return allocate(bytes); }
  void release_host(void* memory) noexcept override { release(memory); }
  void to_device(void* to, const void* from, int64_t bytes) override { copy(to, from, bytes); }
  void to_host(void* to, const void* from, int64_t bytes) override { copy(to, from, bytes); }
  void copy_on_device(void* to, const void* from, int64_t bytes) override { copy(to, from, bytes); }
  void call_on_host(HostCall& call) override { call.run(); }
  bool recording() const override { return false; }
  std::unique_ptr<DeviceGraph> record(const std::function<void()>&) override { return nullptr; }
  void synchronize() override {}
  void* native_stream() const override { return nullptr; }

 private:
  static constexpr int64_t kHeader = 4096;
  static void copy(void* to, const void* from, int64_t bytes) {
    if (to != from) std::memcpy(to, from, static_cast<size_t>(bytes));
  }
};

}  // namespace

std::unique_ptr<DeviceContext> make_cpu_context() {
  return std::make_unique<CpuContext>();
}

std::unique_ptr<DeviceContext> make_context(const std::string& name) {
  if (name == "cpu") return make_cpu_context();
  if (name == "auto") {
    std::string why;
    if (!cuda_devices(&why).empty()) return make_cuda_context(0);
    // Who built a program for GPUs wants to know; who did not, need not hear of it each time.
    log::log(has_cuda_code() ? log::level::warn : log::level::info, "running on the CPU: {}", why);
    return make_cpu_context();
  }
  if (name == "cuda") return make_cuda_context(0);
  constexpr std::string_view kPrefix = "cuda:";
  int index = -1;
  if (name.starts_with(kPrefix)) std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), index);
  if (index < 0 || name != fmt::format("cuda:{}", index))
    fail(ErrorCode::kInvalidArgument, "device \"{}\" is not one of auto, cpu, cuda, cuda:N", name);
  return make_cuda_context(index);
}

}  // namespace tessera
