// NVIDIA GPUs through the CUDA runtime, which is linked statically and opens the driver when it is first called.
#include <cuda_runtime.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <map>

#include "core/copy_words.h"
#include "core/cuda_capability.h"
#include "core/cuda_driver.h"
#include "core/device_context.h"
#include "core/log.h"
#include "core/upload_lane.h"

namespace tessera {

namespace {

void check(cudaError_t result, const char* what) {
  if (result != cudaSuccess) fail(ErrorCode::kIo, "CUDA: {}: {}", what, cudaGetErrorString(result));
}

DeviceInfo describe(int index) {
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, index), "reading the device's properties");
  return {.name = properties.name,
          .capability = acting_capability(properties.major * 10 + properties.minor),
          .multiprocessors = properties.multiProcessorCount,
          .total_bytes = static_cast<int64_t>(properties.totalGlobalMem),
          .free_bytes = static_cast<int64_t>(properties.totalGlobalMem)};
}

// Pinned by registering touched huge pages: a tenth of the time that cudaMallocHost takes.
class PinnedBlock {
 public:
  explicit PinnedBlock(int64_t bytes) : bytes_(static_cast<size_t>(bytes)) {
    void* memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
      fail(ErrorCode::kOutOfMemory, "{} MiB of host memory for staging cannot be had", bytes >> 20);
    madvise(memory, bytes_, MADV_HUGEPAGE);
    std::memset(memory, 0, bytes_);
    memory_ = static_cast<char*>(memory);
    registered_ = cudaHostRegister(memory_, bytes_, cudaHostRegisterDefault) == cudaSuccess;
    void* mapped = nullptr;
    if (registered_ && cudaHostGetDevicePointer(&mapped, memory_, 0) == cudaSuccess)
      on_device_ = static_cast<char*>(mapped);
    if (on_device_ == nullptr) cudaGetLastError();
    if (registered_) return;
    log::warn("{} MiB of host memory could not be pinned; copies between it and the GPU are slower", bytes >> 20);
  }
  ~PinnedBlock() {
    if (registered_) cudaHostUnregister(memory_);
    munmap(memory_, bytes_);
  }
  PinnedBlock(const PinnedBlock&) = delete;
  char* data() const { return memory_; }
  // Where the device reads and writes it; null: nowhere, or it lies outside.
  char* on_device(const void* host) const {
    const auto at = static_cast<size_t>(static_cast<const char*>(host) - memory_);
    return on_device_ != nullptr && at < bytes_ ? on_device_ + at : nullptr;
  }

 private:
  char* memory_ = nullptr;
  char* on_device_ = nullptr;
  size_t bytes_;
  bool registered_ = false;
};

class CudaGraph final : public DeviceGraph {
 public:
  CudaGraph(cudaGraphExec_t executable, cudaStream_t stream) : executable_(executable), stream_(stream) {}
  ~CudaGraph() override { cudaGraphExecDestroy(executable_); }
  void launch() override { check(cudaGraphLaunch(executable_, stream_), "launching a graph"); }

 private:
  cudaGraphExec_t executable_;
  cudaStream_t stream_;
};

// A forced capability stands for a card that this program was built for.
bool can_run(const DeviceInfo& d) {
  return d.capability >= kLeastCapability || forced_capability() != 0;
}
std::string too_old(const DeviceInfo& d) {
  return fmt::format("{} has compute capability {}.{}, and {}.{} is the least that this program has code for", d.name,
                     d.capability / 10, d.capability % 10, kLeastCapability / 10, kLeastCapability % 10);
}

class CudaContext final : public DeviceContext {
 public:
  explicit CudaContext(int index) : index_(index) {
    const cudaError_t started = cudaSetDevice(index_);
    if (started == cudaErrorMemoryAllocation) {
      fail(ErrorCode::kOutOfMemory,
           "cuda:{} has not even the memory for a process to start on it; stop what else runs there", index_);
    }
    check(started, "selecting the device");
    overlaps_ = describe(index_).capability == 90;
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "creating a stream");
    for (cudaEvent_t& event : marks_)
      check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "creating an event");
  }
  ~CudaContext() override {
    cudaStreamSynchronize(stream_);
    for (cudaEvent_t event : marks_) cudaEventDestroy(event);
    cudaStreamDestroy(stream_);
  }

  Device device() const override { return {DeviceType::kCuda, index_}; }
  DeviceInfo info() const override {
    check(cudaSetDevice(index_), "selecting the device");
    DeviceInfo info = describe(index_);
    size_t free_bytes = 0, total = 0;
    check(cudaMemGetInfo(&free_bytes, &total), "reading the device's memory");
    info.free_bytes = static_cast<int64_t>(free_bytes);
    info.total_bytes = static_cast<int64_t>(total);
    return info;
  }

  bool asynchronous() const override { return true; }
  void make_current() override { check(cudaSetDevice(index_), "selecting the device"); }

  void* allocate(int64_t bytes) override {
    make_current();  // whichever thread builds something on this device
    void* memory = nullptr;
    cudaError_t result = cudaMalloc(&memory, static_cast<size_t>(bytes));
    if (result == cudaErrorMemoryAllocation) {
      cudaGetLastError();  // not sticky
      DeviceInfo now = info();
      fail(ErrorCode::kOutOfMemory,
           "{} has {:.2f} GiB free of {:.2f}, and {:.2f} GiB are needed; stop what else runs on it, lower "
           "--max-context, or keep experts in main memory with --device-map auto",
           now.name, gib(now.free_bytes), gib(now.total_bytes), gib(bytes));
    }
    check(result, "allocating memory");
    return memory;
  }
  void release(void* memory) noexcept override { cudaFree(memory); }
  void* allocate_host(int64_t bytes) override {
    auto block = std::make_unique<PinnedBlock>(bytes);
    void* memory = block->data();
    pinned_.emplace(memory, std::move(block));
    return memory;
  }
  void release_host(void* memory) noexcept override { pinned_.erase(memory); }

  void to_device(void* to, const void* from, int64_t bytes) override {
    if (const char* mapped = on_device(from); mapped != nullptr && few_words(to, mapped, bytes))
      return copy_few(to, mapped, bytes);
    check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream_),
          "copying to the device");
  }
  void to_host(void* to, const void* from, int64_t bytes) override {
    if (char* mapped = on_device(to); mapped != nullptr && few_words(mapped, from, bytes))
      return copy_few(mapped, from, bytes);
    check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, stream_),
          "copying from the device");
  }
  void copy_on_device(void* to, const void* from, int64_t bytes) override {
    if (few_words(to, from, bytes)) return copy_few(to, from, bytes);
    check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice, stream_),
          "copying on the device");
  }
  void call_on_host(HostCall& call) override {
    std::unique_ptr<Enqueued>& enqueued = host_calls_[&call];
    if (!enqueued) enqueued = std::make_unique<Enqueued>(&call, &host_errors_);
    auto run = [](void* data) {
      const auto* e = static_cast<const Enqueued*>(data);
      e->errors->run(*e->call);
    };
    check(cudaLaunchHostFunc(stream_, run, enqueued.get()), "calling the host");
  }
  bool recording() const override { return recording_; }
  std::unique_ptr<DeviceGraph> record(const std::function<void()>& work) override {
    // Relaxed: a kernel's module may be loaded on its first use, here too.
    check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeRelaxed), "recording a graph");
    cudaGraph_t graph = nullptr;
    recording_ = true;
    try {
      work();
      recording_ = false;
    } catch (...) {
      recording_ = false;
      cudaStreamEndCapture(stream_, &graph);
      if (graph != nullptr) cudaGraphDestroy(graph);
      cudaGetLastError();
      throw;
    }
    check(cudaStreamEndCapture(stream_, &graph), "recording a graph");
    cudaGraphExec_t executable = nullptr;
    const cudaError_t result = cudaGraphInstantiate(&executable, graph, 0);
    cudaGraphDestroy(graph);
    check(result, "making a graph");
    return std::make_unique<CudaGraph>(executable, stream_);
  }
  void synchronize() override {
    check(cudaStreamSynchronize(stream_), "running on the device");
    host_errors_.rethrow();
  }
  int64_t mark() override {
    check(cudaEventRecord(marks_[marked_ % kMarks], stream_), "marking the stream");
    return marked_++;
  }
  void wait_for(int64_t mark) override {
    const int64_t known = std::max(mark, marked_ - kMarks);  // an older one's event marks something later by now
    check(cudaEventSynchronize(marks_[known % kMarks]), "running on the device");
    host_errors_.rethrow();
  }
  void* native_stream() const override { return stream_; }

 private:
  // What the driver hands back; stays, since a graph may name it.
  struct Enqueued {
    Enqueued(HostCall* c, HostErrors* e) : call(c), errors(e) {}
    HostCall* call;
    HostErrors* errors;
  };
  char* on_device(const void* host) const {
    const auto after = pinned_.upper_bound(const_cast<void*>(host));
    return after == pinned_.begin() ? nullptr : std::prev(after)->second->on_device(host);
  }
  static bool few_words(const void* to, const void* from, int64_t bytes) {
    const auto unaligned =
        reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from) | static_cast<uintptr_t>(bytes);
    return bytes > 0 && bytes <= 4 * kMostCopiedWords && unaligned % 4 == 0;
  }
  void copy_few(void* to, const void* from, int64_t bytes) {
    check(copy_words(to, from, bytes / 4, overlaps_, stream_), "copying a few words");
  }
  static double gib(int64_t bytes) { return static_cast<double>(bytes) / (int64_t{1} << 30); }

  int index_;
  cudaStream_t stream_ = nullptr;
  bool overlaps_ = false;  // a grid may start before the one before it has ended
  static constexpr int64_t kMarks = 4;
  cudaEvent_t marks_[kMarks]{};
  int64_t marked_ = 0;
  std::map<void*, std::unique_ptr<PinnedBlock>> pinned_;
  std::map<HostCall*, std::unique_ptr<Enqueued>> host_calls_;
  HostErrors host_errors_;
  bool recording_ = false;
};

}  // namespace

bool has_cuda_code() {
  return true;
}

namespace {

// 13000 as "13.0".
std::string version(int number) {
  return fmt::format("{}.{}", number / 1000, number % 1000 / 10);
}

// In a line, why the runtime finds no device.
std::string why_none(cudaError_t result) {
  if (result == cudaSuccess || result == cudaErrorNoDevice) return "no NVIDIA GPU is visible";
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  if (result == cudaErrorInsufficientDriver && driver == 0) return "no NVIDIA driver: libcuda.so.1 is not there";
  if (result == cudaErrorInsufficientDriver) {
    return fmt::format("the NVIDIA driver is too old: it knows CUDA {}, and this program needs {}", version(driver),
                       version(runtime));
  }
  return fmt::format("no usable GPU: {}", cudaGetErrorString(result));
}

}  // namespace

std::vector<DeviceInfo> cuda_devices(std::string* why) {
  forced_capability();
  int count = 0;
  cudaError_t result = cudaGetDeviceCount(&count);
  std::vector<DeviceInfo> devices;
  if (result != cudaSuccess || count == 0) {
    cudaGetLastError();
    if (why) *why = why_none(result);
    return devices;
  }
  for (int i = 0; i < count; ++i) devices.push_back(describe(i));
  // Numbers are those of the runtime, so an old card among new ones stays; make_cuda_context refuses it.
  const bool any = std::any_of(devices.begin(), devices.end(), [](const DeviceInfo& d) { return can_run(d); });
  if (any) return devices;
  if (why) *why = too_old(devices[0]);
  return {};
}

namespace {

class CudaUploadLane final : public UploadLane {
 public:
  CudaUploadLane(DeviceContext& context, int64_t bytes, bool device_blocks)
      : context_(context), bytes_(bytes), pinned_(2 * bytes) {
    context_.make_current();
    if (device_blocks) device_ = static_cast<char*>(context_.allocate(2 * bytes));
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "creating a stream");
    for (cudaEvent_t& event : events_)
      check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "creating an event");
  }
  ~CudaUploadLane() override {
    cudaStreamSynchronize(stream_);
    for (cudaEvent_t event : events_) cudaEventDestroy(event);
    cudaStreamDestroy(stream_);
    if (device_ != nullptr) context_.release(device_);
  }

  Block begin() override {
    turn_ ^= 1;
    check(cudaEventSynchronize(events_[turn_]), "copying to the device");
    return {pinned_.data() + turn_ * bytes_, device_ == nullptr ? nullptr : device_ + turn_ * bytes_};
  }
  void send(void* to, const char* from, int64_t bytes) override {
    check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream_),
          "copying to the device");
  }
  void end() override { check(cudaEventRecord(events_[turn_], stream_), "copying to the device"); }
  void finish() override { check(cudaStreamSynchronize(stream_), "copying to the device"); }
  void* native_stream() const override { return stream_; }

 private:
  DeviceContext& context_;
  int64_t bytes_;
  PinnedBlock pinned_;
  char* device_ = nullptr;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t events_[2] = {};
  int turn_ = 0;
};

}  // namespace

std::unique_ptr<UploadLane> make_upload_lane(DeviceContext& context, int64_t block_bytes, bool device_blocks) {
  return std::make_unique<CudaUploadLane>(context, block_bytes, device_blocks);
}

int cuda_driver_version() {
  int version = 0;
  return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}

std::unique_ptr<DeviceContext> make_cuda_context(int index) {
  std::string why;
  std::vector<DeviceInfo> devices = cuda_devices(&why);
  if (devices.empty()) fail(ErrorCode::kNotFound, "{}; use --device cpu", why);
  if (index >= static_cast<int>(devices.size()))
    fail(ErrorCode::kNotFound, "there is no cuda:{}; this machine has {} NVIDIA GPU(s)", index, devices.size());
  if (const DeviceInfo& d = devices[static_cast<size_t>(index)]; !can_run(d))
    fail(ErrorCode::kUnsupported, "{}; use --device cpu", too_old(d));
  return std::make_unique<CudaContext>(index);
}

}  // namespace tessera
