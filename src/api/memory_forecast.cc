#include "api/memory_forecast.h"

#include <algorithm>

#include "core/device_context.h"
#include "core/host_memory.h"
#include "engine/runner.h"

namespace tessera {

namespace {

constexpr double kGiB = 1024.0 * 1024 * 1024;
constexpr double kCards[] = {8, 12, 16, 24, 32, 48, 80, 141};  // GiB of cards on the market
constexpr double kDriverShare = 0.75;                          // GiB that a CUDA context and its libraries take
constexpr int64_t kLongestMeasured = 131072;                   // tokens; a longer context needs the same workspace

struct Needs {
  int64_t weights = 0, workspace = 0;
  int64_t per_token = 0, windows = 0;  // bytes of cache
  int64_t context = 0, limit = 0;      // tokens: asked for, and the model's most

  int64_t total(int64_t tokens) const { return weights + workspace + windows + per_token * tokens; }
};

Json row(const std::string& name, int64_t bytes, const Needs& needs) {
  const int64_t left = bytes - needs.total(0);
  int64_t longest = 0;
  if (left > 0) longest = needs.per_token > 0 ? std::min(needs.limit, left / needs.per_token) : needs.limit;
  return {{"device", name}, {"bytes", bytes}, {"fits", bytes >= needs.total(needs.context)}, {"max_context", longest}};
}

Json device_rows(const Needs& needs, const std::vector<double>& more_cards) {
  Json rows = Json::array();
  rows.push_back(row("cpu, this machine", available_memory(), needs));
  int index = 0;
  for (const DeviceInfo& card : cuda_devices(nullptr))
    rows.push_back(row(fmt::format("cuda:{}, {}", index++, card.name), card.free_bytes, needs));
  std::vector<double> cards(std::begin(kCards), std::end(kCards));
  cards.insert(cards.end(), more_cards.begin(), more_cards.end());
  std::ranges::sort(cards);
  cards.erase(std::unique(cards.begin(), cards.end()), cards.end());
  for (double size : cards) {
    const auto bytes = static_cast<int64_t>(std::max(0.0, size - kDriverShare) * kGiB);
    rows.push_back(row(fmt::format("a card of {:g} GB", size), bytes, needs));
  }
  return rows;
}

}  // namespace

Json forecast_memory(Checkpoint& checkpoint, Model& model, const ForecastOptions& options) {
  const LoadSettings settings{.dtype = options.dtype, .dequantize = options.dequantize};
  WeightPlan plan;
  model.declare(plan);
  Needs needs{.context = options.context, .limit = model.info().max_position_embeddings};
  for (const LoadedRow& loaded : checkpoint.forecast(plan, settings)) needs.weights += loaded.memory_bytes;
  for (const LayerCache& layer : model.cache().layers) {
    const int64_t bytes = token_bytes(layer, dtype_size(options.dtype));
    const bool whole = layer.window == 0 || options.ignore_window;
    (whole ? needs.per_token : needs.windows) += whole ? bytes : bytes * (layer.window - 1);
  }
  checkpoint.bind_shapes(plan, settings);
  ThreadPool pool(options.threads);
  std::unique_ptr<DeviceContext> cpu = make_cpu_context();
  const Kernels kernels = Kernels::builtin(cpu_isa_from_env());
  const RunnerOptions run{
      .dtype = options.dtype, .max_context = options.context, .ignore_window = options.ignore_window};
  // Its memory is address space that nothing touches.
  needs.workspace = Runner(model, kernels, pool, *cpu, run).memory().scratch_bytes;
  return {{"context", needs.context},
          {"weight_bytes", needs.weights},
          {"cache_bytes", needs.windows + needs.per_token * needs.context},
          {"cache_bytes_per_token", needs.per_token},
          {"workspace_bytes", needs.workspace},
          {"total_bytes", needs.total(needs.context)},
          {"devices", device_rows(needs, options.card_gigabytes)}};
}

}  // namespace tessera
