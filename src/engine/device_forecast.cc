#include "engine/device_forecast.h"

#include <algorithm>

#include "core/error.h"
#include "engine/step_shape.h"

namespace tessera {

namespace {

// A GPU with all the memory that is asked of it and none that may be touched.
class CountingContext final : public DeviceContext {
 public:
  explicit CountingContext(Device device) : device_(device) {}
  Device device() const override { return device_; }
  DeviceInfo info() const override { return {.total_bytes = kPlenty, .free_bytes = kPlenty}; }
  bool asynchronous() const override { return true; }
  void make_current() override {}
  void* allocate(int64_t bytes) override {
    taken_ += bytes;
    return next(bytes);
  }
  void release(void*) noexcept override {}
  void* allocate_host(int64_t bytes) override { return next(bytes); }
  void release_host(void*) noexcept override {}
  void to_device(void*, const void*, int64_t) override { never(); }
  void to_host(void*, const void*, int64_t) override { never(); }
  void copy_on_device(void*, const void*, int64_t) override { never(); }
  void call_on_host(HostCall&) override { never(); }
  bool recording() const override { return false; }
  std::unique_ptr<DeviceGraph> record(const std::function<void()>&) override { return nullptr; }
  void synchronize() override {}
  void* native_stream() const override { return nullptr; }

  int64_t taken() const { return taken_; }

 private:
  static constexpr int64_t kPlenty = int64_t{1} << 50;
  static void never() { TS_CHECK(false, "nothing runs on a device that is only counted"); }
  void* next(int64_t bytes) {
    char* address = next_;
    next_ += (bytes + 511) / 512 * 512;
    return address;
  }

  Device device_;
  int64_t taken_ = 0;
  char* next_ = reinterpret_cast<char*>(4096);
};

}  // namespace

bool has_cuda_kernels(const Kernels& kernels) {
  return std::any_of(kernels.attention.rows.begin(), kernels.attention.rows.end(),
                     [](const auto& row) { return row.device == DeviceType::kCuda; });
}

DeviceForecast forecast_device(const WeightPlan& plan, const ArrangeOptions& options, const Model& model,
                               const Kernels& kernels, ThreadPool& pool, const RunnerOptions& run) {
  DeviceForecast out{.driver = kDriverBytes, .measured = has_cuda_kernels(kernels)};
  Device device;
  if (out.measured) {
    device.type = DeviceType::kCuda;
    out.weights = lay_out_weights(plan, options, device);
  } else {
    for (const WeightRow& row : plan.rows()) {
      if (row.kind == RowKind::kAlias) continue;
      out.weights += row.tensor ? row.tensor->bytes() : row.weight->bytes();
    }
  }
  // The cache is asked for by its size: how much is free here and now is beside the point.
  const CacheSpec spec = model.cache();
  const CacheLayout layout = layout_cache(spec, run.ignore_window);
  RunnerOptions counted = run;
  if (counted.page_size == 0) counted.page_size = default_page_size(spec);
  const int64_t chunk = std::min(run.max_context, std::max(run.max_batch_tokens, run.max_sequences));
  counted.cache_bytes = run.max_sequences * layout.pages_for(run.max_context, chunk, counted.page_size) *
                        layout.page_bytes(counted.page_size, dtype_size(run.cache_type()));
  CountingContext counting(device);
  const Runner runner(model, kernels, pool, counting, counted);
  out.cache = runner.memory().cache_bytes;
  out.workspace = counting.taken() - out.cache + (out.measured ? 0 : kUnmeasuredBytes);
  out.graphs = static_cast<int64_t>(recorded_sizes(run.max_sequences).size()) * model.info().num_hidden_layers *
               kGraphBytesALayer;
  return out;
}

}  // namespace tessera
