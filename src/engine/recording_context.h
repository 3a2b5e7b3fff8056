// A CPU that behaves like a GPU, for tests: inputs and outputs are copied, and steps are recorded and replayed. Work
// runs when it is enqueued, but what it sends to the host arrives with the wait for it, and is garbage until then. Who
// changes what a GPU might not have read yet is found out at the next wait.
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
  void release_host(void* memory) noexcept override {
    released_in_use += !sent_.empty() || !arriving_.empty();
    sent_.clear();
    arriving_.clear();
    cpu_->release(memory);
  }
  void to_device(void* to, const void* from, int64_t bytes) override {
    auto* begin = const_cast<char*>(static_cast<const char*>(from));
    arrive([&](const Copy& c) { return c.overlaps(begin, bytes); });  // it is the device that reads, in its turn
    cpu_->to_device(to, from, bytes);
    sent_.push_back({marks, begin, std::string(begin, static_cast<size_t>(bytes))});
  }
  void to_host(void* to, const void* from, int64_t bytes) override {
    auto* begin = static_cast<char*>(to);
    std::erase_if(sent_, [&](const Copy& c) { return c.overlaps(begin, bytes); });  // likewise
    arriving_.push_back({marks, begin, std::string(static_cast<const char*>(from), static_cast<size_t>(bytes))});
    std::memset(to, 0xcd, static_cast<size_t>(bytes));
  }
  void copy_on_device(void* to, const void* from, int64_t bytes) override { cpu_->copy_on_device(to, from, bytes); }
  void call_on_host(HostCall& call) override {
    ++host_calls;
    arrive([](const Copy&) { return true; });
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
    try {
      if (on_synchronize) on_synchronize();
    } catch (...) {
      sent_.clear(), arriving_.clear();  // it has stopped
      throw;
    }
    waited = std::max(waited, mark);
    for (; !sent_.empty() && sent_.front().before <= mark; sent_.pop_front()) {
      const Copy& c = sent_.front();
      TS_CHECK(std::memcmp(c.host, c.bytes.data(), c.bytes.size()) == 0,
               "{} bytes on their way to the device were changed", c.bytes.size());
    }
    arrive([&](const Copy& c) { return c.before <= mark; });
    errors_.rethrow();
  }
  void* native_stream() const override { return nullptr; }

  int64_t recorded = 0, replayed = 0, host_calls = 0;
  int64_t marks = 0, waited = -1;        // how many, and the last one that was waited for
  int64_t released_in_use = 0;           // blocks of host memory, while copies were on their way
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
  struct Copy {
    bool overlaps(const char* begin, int64_t count) const {
      return host < begin + count && begin < host + bytes.size();
    }
    int64_t before;  // the mark
    char* host;
    std::string bytes;
  };
  template <class F>
  void arrive(F&& which) {
    std::erase_if(arriving_, [&](const Copy& c) {
      if (!which(c)) return false;
      std::memcpy(c.host, c.bytes.data(), c.bytes.size());
      return true;
    });
  }

  HostErrors errors_;
  std::deque<Copy> sent_, arriving_;
  std::unique_ptr<DeviceContext> cpu_ = make_cpu_context();
};

inline std::unique_ptr<DeviceContext> test_context(bool recording) {
  if (recording) return std::make_unique<RecordingContext>();
  return make_cpu_context();
}

}  // namespace tessera
