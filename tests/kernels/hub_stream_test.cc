// Kernels from the hub on a GPU's stream: a call returns while work before it still waits, runs after that work and
// before what follows, can be recorded as a graph, and leaves the environment's stream as it was. Skipped, and said so,
// without a GPU or libtvm_ffi.so. TESSERA_CUSTOM_KERNEL: a repository with the example's relu and rms_norm for CUDA.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>
#include <vector>

#include "core/error.h"
#include "kernels/hub/attach.h"
#include "kernels/hub/layer_abi.h"

namespace tessera::hub_kernels {
namespace {

constexpr auto kDelay = std::chrono::milliseconds(60);
constexpr int64_t kTokens = 4, kWidth = 256;

void ok(cudaError_t result) {
  ASSERT_EQ(result, cudaSuccess) << cudaGetErrorString(result);
}

struct GpuVector {
  explicit GpuVector(float value) : host(kTokens * kWidth, value) {
    ok(cudaMalloc(&data, bytes()));
    ok(cudaMemcpy(data, host.data(), bytes(), cudaMemcpyHostToDevice));
  }
  ~GpuVector() { cudaFree(data); }
  GpuVector(const GpuVector&) = delete;
  size_t bytes() const { return host.size() * sizeof(float); }
  Tensor tensor(Shape shape) const { return {data, shape, DType::kF32, {DeviceType::kCuda, 0}}; }
  std::vector<float> host;
  void* data = nullptr;
};

// One function of a library, called as out = f(x) with x = 4 or -4 in every element.
struct Case {
  std::string name;
  std::shared_ptr<const Module> module;
  ffi::Function function = nullptr;
  std::function<void(Call&, const Tensor& out, const Tensor& x)> pack;
  std::function<float(float)> expected;
};

class HubStream : public ::testing::Test {
 protected:
  void SetUp() override {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) GTEST_SKIP() << "no GPU";
    std::string why;
    if (!Runtime::try_open(&why)) GTEST_SKIP() << why;
    ok(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    ok(cudaStreamCreateWithFlags(&other_, cudaStreamNonBlocking));
    ok(cudaMalloc(&workspace_, kWorkspace));
    weight_ = std::make_unique<GpuVector>(1.0f);
    const char* moved = std::getenv("TESSERA_OWN_KERNELS");  // where the library is now
    add(moved ? moved : TESSERA_KERNELS_LIBRARY, "rms_norm_cuda", norm(), sign());
    if (const char* folder = std::getenv("TESSERA_CUSTOM_KERNEL")) {
      const std::string library = library_of_folder(folder, DeviceType::kCuda);
      add(library, "rms_norm_cuda", norm(), sign());
      add(
          library, "relu_cuda", [](Call& c, const Tensor& out, const Tensor& x) { c.tensor(out).tensor(x); },
          [](float v) { return std::max(v, 0.0f); });
    }
  }
  void TearDown() override {
    if (stream_) cudaStreamDestroy(stream_);
    if (other_) cudaStreamDestroy(other_);
    cudaFree(workspace_);
  }

  void add(const std::string& library, const std::string& function, decltype(Case::pack) pack,
           decltype(Case::expected) expected) {
    Case c{library + ": " + function, Module::load(library), nullptr, std::move(pack), std::move(expected)};
    c.function = c.module->find(function);
    ASSERT_NE(c.function, nullptr) << c.name;
    cases_.push_back(std::move(c));
  }
  decltype(Case::pack) norm() {
    return [this](Call& c, const Tensor& out, const Tensor& x) {
      c.tensor(out).tensor(x).tensor(weight_->tensor({kWidth})).real(0.0);
    };
  }
  static decltype(Case::expected) sign() {
    return [](float v) { return v < 0 ? -1.0f : 1.0f; };  // all elements alike, so the norm is their size
  }

  void call(const Case& c, const GpuVector& out, const GpuVector& x, cudaStream_t on) {
    Call packed;
    c.pack(packed, out.tensor({kTokens, kWidth}), x.tensor({kTokens, kWidth}));
    Stream stream{nullptr, on, workspace_};
    packed.run(c.module->runtime(), c.function, c.name, {DeviceType::kCuda, 0}, stream, kWorkspace);
  }

  // The stream stands still for a while, on the host's clock.
  void delay() {
    ok(cudaLaunchHostFunc(
        stream_, [](void*) { std::this_thread::sleep_for(kDelay); }, nullptr));
  }

  // At a test's end: what was seen is not all that it is for.
  static bool example_left_out() { return std::getenv("TESSERA_CUSTOM_KERNEL") == nullptr; }

  static constexpr int64_t kWorkspace = 4 << 20;
  cudaStream_t stream_ = nullptr, other_ = nullptr;
  void* workspace_ = nullptr;
  std::unique_ptr<GpuVector> weight_;
  std::vector<Case> cases_;
};

TEST_F(HubStream, RunsInItsPlace) {
  for (const Case& c : cases_) {
    SCOPED_TRACE(c.name);
    GpuVector x(-4), after(-4), later(4), out(7), seen(7);
    call(c, out, x, stream_);  // once before: modules are loaded lazily, and that waits
    ok(cudaDeviceSynchronize());
    void* old = reinterpret_cast<void*>(1);
    c.module->runtime().env_set_stream(ffi::kDlCuda, 0, other_, nullptr);

    const auto start = std::chrono::steady_clock::now();
    delay();
    ok(cudaMemcpyAsync(x.data, later.data, x.bytes(), cudaMemcpyDeviceToDevice, stream_));
    call(c, out, x, stream_);
    ok(cudaMemcpyAsync(x.data, after.data, x.bytes(), cudaMemcpyDeviceToDevice, stream_));
    const auto queued = std::chrono::steady_clock::now() - start;
    EXPECT_LT(queued, kDelay / 2) << "the call waited for the stream";
    EXPECT_EQ(cudaStreamQuery(stream_), cudaErrorNotReady);

    // On another stream nothing waits, and the old values are there: what the calls above would see without the first.
    call(c, seen, x, other_);
    ok(cudaStreamSynchronize(other_));
    EXPECT_EQ(cudaStreamQuery(stream_), cudaErrorNotReady) << "the delay was too short to show anything";
    ok(cudaMemcpy(seen.host.data(), seen.data, seen.bytes(), cudaMemcpyDeviceToHost));
    for (const float v : seen.host) ASSERT_NEAR(v, c.expected(-4), 1e-5f);

    ok(cudaStreamSynchronize(stream_));
    ok(cudaMemcpy(out.host.data(), out.data, out.bytes(), cudaMemcpyDeviceToHost));
    for (const float v : out.host) ASSERT_NEAR(v, c.expected(4), 1e-5f);
    c.module->runtime().env_set_stream(ffi::kDlCuda, 0, nullptr, &old);
    EXPECT_EQ(old, static_cast<void*>(other_)) << "the environment's stream is another one after a call";
  }
  if (example_left_out()) GTEST_SKIP() << "only this program's own kernels: TESSERA_CUSTOM_KERNEL is not set";
}

TEST_F(HubStream, CanBeRecorded) {
  for (const Case& c : cases_) {
    SCOPED_TRACE(c.name);
    GpuVector x(-4), later(4), out(7);
    call(c, out, x, stream_);
    ok(cudaDeviceSynchronize());
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t recorded = nullptr;
    ok(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    call(c, out, x, stream_);
    ok(cudaStreamEndCapture(stream_, &graph));
    ok(cudaGraphInstantiate(&recorded, graph, 0));
    ok(cudaMemcpyAsync(x.data, later.data, x.bytes(), cudaMemcpyDeviceToDevice, stream_));
    ok(cudaGraphLaunch(recorded, stream_));
    ok(cudaMemcpyAsync(out.host.data(), out.data, out.bytes(), cudaMemcpyDeviceToHost, stream_));
    ok(cudaStreamSynchronize(stream_));
    for (const float v : out.host) ASSERT_NEAR(v, c.expected(4), 1e-5f);
    cudaGraphExecDestroy(recorded);
    cudaGraphDestroy(graph);
  }
  if (example_left_out()) GTEST_SKIP() << "only this program's own kernels: TESSERA_CUSTOM_KERNEL is not set";
}

}  // namespace
}  // namespace tessera::hub_kernels
