// A CPU that behaves like a GPU, for tests: inputs and outputs are copied, and steps are recorded and replayed. Work
// runs when it is enqueued; who changes what a GPU might not have read yet is found out at the next wait.
#pragma once

#include <algorithm>
#include <cstring>
#include <deque>

#include "core/device_context.h"
#include "core/error.h"

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
  void to_device(void* to, const void* from, int64_t bytes) override {
    cpu_->to_device(to, from, bytes);
    const auto* begin = static_cast<const char*>(from);
    sent_.push_back({marks, begin, std::string(begin, static_cast<size_t>(bytes))});
  }
  void to_host(void* to, const void* from, int64_t bytes) override {
    const auto* begin = static_cast<const char*>(to);
    std::erase_if(sent_, [&](const Sent& s) {  // the device itself changes it, in its turn
      return s.from < begin + bytes && begin < s.from + s.bytes.size();
    });
    cpu_->to_host(to, from, bytes);
  }
  void copy_on_device(void* to, const void* from, int64_t bytes) override { cpu_->copy_on_device(to, from, bytes); }
  void call_on_host(HostCall& call) override {
    ++host_calls;
    errors_.run(call);
    sent_.clear();  // it may write what is sent again and again, in its turn
  }
  bool recording() const override { return false; }
  std::unique_ptr<DeviceGraph> record(const std::function<void()>& work) override {
    ++recorded;
    return std::make_unique<Graph>(work, replayed);
  }
  void synchronize() override { wait_for(marks); }
  int64_t mark() override { return marks++; }
  void wait_for(int64_t mark) override {
    if (on_synchronize) on_synchronize();
    waited = std::max(waited, mark);
    for (; !sent_.empty() && sent_.front().before <= mark; sent_.pop_front()) {
      const Sent& s = sent_.front();
      TS_CHECK(std::memcmp(s.from, s.bytes.data(), s.bytes.size()) == 0,
               "{} bytes on their way to the device were changed", s.bytes.size());
    }
    errors_.rethrow();
  }
  void* native_stream() const override { return nullptr; }

  int64_t recorded = 0, replayed = 0, host_calls = 0;
  int64_t marks = 0, waited = -1;        // how many, and the last one that was waited for
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
  struct Sent {
    int64_t before;  // the mark
    const char* from;
    std::string bytes;
  };
  HostErrors errors_;
  std::deque<Sent> sent_;
  std::unique_ptr<DeviceContext> cpu_ = make_cpu_context();
};

inline std::unique_ptr<DeviceContext> test_context(bool recording) {
  if (recording) return std::make_unique<RecordingContext>();
  return make_cpu_context();
}

}  // namespace tessera
