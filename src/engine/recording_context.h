// A CPU that behaves like a GPU, for tests: inputs and outputs are copied, and steps are recorded and replayed. Work
// runs when it is enqueued.
#pragma once

#include "core/device_context.h"

namespace tessera {

class RecordingContext final : public DeviceContext {
 public:
  Device device() const override { return cpu_->device(); }
  DeviceInfo info() const override { return cpu_->info(); }
  bool asynchronous() const override { return true; }
  void make_current() override {}
  void* allocate(int64_t bytes) override { return cpu_->allocate(bytes); }
  void release(void* memory) noexcept override { cpu_->release(memory); }
  void* allocate_host(int64_t bytes) override { return cpu_->allocate(bytes); }
  void release_host(void* memory) noexcept override { cpu_->release(memory); }
  void to_device(void* to, const void* from, int64_t bytes) override { cpu_->to_device(to, from, bytes); }
  void to_host(void* to, const void* from, int64_t bytes) override { cpu_->to_host(to, from, bytes); }
  void copy_on_device(void* to, const void* from, int64_t bytes) override { cpu_->copy_on_device(to, from, bytes); }
  void call_on_host(HostCall& call) override {
    ++host_calls;
    errors_.run(call);
  }
  bool recording() const override { return false; }
  std::unique_ptr<DeviceGraph> record(const std::function<void()>& work) override {
    ++recorded;
    return std::make_unique<Graph>(work, replayed);
  }
  void synchronize() override {
    if (on_synchronize) on_synchronize();
    errors_.rethrow();
  }
  void* native_stream() const override { return nullptr; }

  int64_t recorded = 0, replayed = 0, host_calls = 0;
  std::function<void()> on_synchronize;  // may throw, as a device does that has failed

 private:
  struct Graph final : DeviceGraph {
    Graph(std::function<void()> w, int64_t& n) : work(std::move(w)), replayed(n) {}
    void launch() override {
      work();
      ++replayed;
    }
    std::function<void()> work;
    int64_t& replayed;
  };
  HostErrors errors_;
  std::unique_ptr<DeviceContext> cpu_ = make_cpu_context();
};

inline std::unique_ptr<DeviceContext> test_context(bool recording) {
  if (recording) return std::make_unique<RecordingContext>();
  return make_cpu_context();
}

}  // namespace tessera
