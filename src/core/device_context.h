// DeviceContext: one device's memory and its one stream of work. The CPU's runs everything at once; a GPU's is
// asynchronous. Used by one thread at a time. Builds without CUDA link device_cuda_absent.cc instead of device_cuda.cc.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/host_call.h"
#include "core/tensor.h"

namespace tessera {

struct DeviceInfo {
  std::string name;    // "NVIDIA H100 80GB HBM3"
  int capability = 0;  // major * 10 + minor
  int multiprocessors = 0;
  int64_t total_bytes = 0;
  int64_t free_bytes = 0;
};

// Work recorded once and launched many times with one call. The memory it names must stay.
class DeviceGraph {
 public:
  virtual ~DeviceGraph() = default;
  virtual void launch() = 0;  // in stream order
};

class DeviceContext {
 public:
  virtual ~DeviceContext() = default;
  virtual Device device() const = 0;
  virtual DeviceInfo info() const = 0;
  // Work is enqueued and runs later; the host reaches memory through allocate_host() and copies only.
  virtual bool asynchronous() const = 0;

  // Each thread that uses the context calls this first.
  virtual void make_current() = 0;

  // 256-byte aligned. Throws kOutOfMemory naming what was asked and what is free.
  virtual void* allocate(int64_t bytes) = 0;
  virtual void release(void* memory) noexcept = 0;
  // Host memory that the device reads and writes directly.
  virtual void* allocate_host(int64_t bytes) = 0;
  virtual void release_host(void* memory) noexcept = 0;

  // In stream order. The host side must stay as it is until synchronize(), or wait_for() of a mark made after.
  virtual void to_device(void* device_memory, const void* host, int64_t bytes) = 0;
  virtual void to_host(void* host, const void* device_memory, int64_t bytes) = 0;
  virtual void copy_on_device(void* to, const void* from, int64_t bytes) = 0;
  // Runs the call once all before it is done; what comes after waits for it. It may be recorded, and must stay as long
  // as the record. What it throws, the next wait for the device throws.
  virtual void call_on_host(HostCall& call) = 0;
  // Whether record() is at work.
  virtual bool recording() const = 0;
  // Records what `work` puts on the stream instead of running it. Null where nothing is asynchronous.
  virtual std::unique_ptr<DeviceGraph> record(const std::function<void()>& work) = 0;
  // Waits for all work. Throws kIo when the device reports a fault; the context is of no further use then.
  virtual void synchronize() = 0;
  // A mark behind what was enqueued so far. wait_for() waits for all before it, and perhaps for more; throws as
  // synchronize() does.
  virtual int64_t mark() { return 0; }
  virtual void wait_for([[maybe_unused]] int64_t mark) { synchronize(); }
  virtual void* native_stream() const = 0;  // cudaStream_t, or null
};

std::unique_ptr<DeviceContext> make_cpu_context();
// Throws kNotFound or kUnsupported saying what is missing: a build with CUDA, a driver, a card, its capability.
std::unique_ptr<DeviceContext> make_cuda_context(int index);
// The cards that make_cuda_context can open; when there are none, `why` gets one line that says what is missing.
std::vector<DeviceInfo> cuda_devices(std::string* why);

// Whether this build has code for GPUs.
bool has_cuda_code();

// "cpu", "cuda", "cuda:1", or "auto": a GPU when there is one, else the CPU, with a line in the log that says so.
std::unique_ptr<DeviceContext> make_context(const std::string& name);

}  // namespace tessera
