#include "core/memory_limit.h"

#include <algorithm>
#include <mutex>
#include <unordered_map>

#include "core/error.h"

namespace tessera {

namespace {

double gib(int64_t bytes) {
  return static_cast<double>(bytes) / (int64_t{1} << 30);
}

class LimitedContext final : public DeviceContext {
 public:
  LimitedContext(std::unique_ptr<DeviceContext> device, int64_t bytes, int64_t reserved)
      : device_(std::move(device)), limit_(bytes), reserved_(reserved) {}

  Device device() const override { return device_->device(); }
  DeviceInfo info() const override {
    DeviceInfo info = device_->info();
    std::lock_guard lock(mutex_);
    info.total_bytes = std::min(info.total_bytes, limit_);
    info.free_bytes = std::clamp<int64_t>(limit_ - reserved_ - taken_, 0, info.free_bytes);
    return info;
  }
  bool asynchronous() const override { return device_->asynchronous(); }
  bool recording() const override { return device_->recording(); }
  void make_current() override { device_->make_current(); }

  void* allocate(int64_t bytes) override {
    {
      std::lock_guard lock(mutex_);
      const int64_t left = limit_ - reserved_ - taken_;
      if (bytes > left) {
        fail(ErrorCode::kOutOfMemory,
             "the limit of {:.2f} GiB on {}: {:.2f} GiB are taken, {:.2f} are the driver's, and {:.2f} GiB more are "
             "needed; raise --device-memory, lower --max-context, or keep experts in main memory with --device-map "
             "auto",
             gib(limit_), device_->info().name, gib(taken_), gib(reserved_), gib(bytes));
      }
      taken_ += bytes;  // before it is there, so that two threads cannot both have the last of it
    }
    void* memory = nullptr;
    try {
      memory = device_->allocate(bytes);
    } catch (...) {
      std::lock_guard lock(mutex_);
      taken_ -= bytes;
      throw;
    }
    std::lock_guard lock(mutex_);
    sizes_.emplace(memory, bytes);
    return memory;
  }
  void release(void* memory) noexcept override {
    {
      std::lock_guard lock(mutex_);
      if (auto it = sizes_.find(memory); it != sizes_.end()) {
        taken_ -= it->second;
        sizes_.erase(it);
      }
    }
    device_->release(memory);
  }
  void* allocate_host(int64_t bytes) override { return device_->allocate_host(bytes); }
  void release_host(void* memory) noexcept override { device_->release_host(memory); }

  void to_device(void* to, const void* from, int64_t bytes) override { device_->to_device(to, from, bytes); }
  void to_host(void* to, const void* from, int64_t bytes) override { device_->to_host(to, from, bytes); }
  void copy_on_device(void* to, const void* from, int64_t bytes) override { device_->copy_on_device(to, from, bytes); }
  void call_on_host(HostCall& call) override { device_->call_on_host(call); }
  std::unique_ptr<DeviceGraph> record(const std::function<void()>& work) override { return device_->record(work); }
  void synchronize() override { device_->synchronize(); }
  int64_t mark() override { return device_->mark(); }
  void wait_for(int64_t mark) override { device_->wait_for(mark); }
  void* native_stream() const override { return device_->native_stream(); }

 private:
  std::unique_ptr<DeviceContext> device_;
  const int64_t limit_, reserved_;
  mutable std::mutex mutex_;
  int64_t taken_ = 0;
  std::unordered_map<void*, int64_t> sizes_;
};

}  // namespace

std::unique_ptr<DeviceContext> limit_memory(std::unique_ptr<DeviceContext> context, int64_t bytes, int64_t reserved) {
  const DeviceInfo info = context->info();
  if (bytes <= reserved) {
    fail(ErrorCode::kInvalidArgument, "a limit of {:.2f} GiB on {}: the driver alone takes {:.2f}", gib(bytes),
         info.name, gib(reserved));
  }
  return std::make_unique<LimitedContext>(std::move(context), bytes, reserved);
}

}  // namespace tessera
