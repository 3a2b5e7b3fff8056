#include "api/memory_forecast.h"

#include <algorithm>

#include "core/device_context.h"
#include "core/host_memory.h"
#include "engine/device_forecast.h"
#include "engine/runner.h"

namespace tessera {

namespace {

constexpr double kGiB = 1024.0 * 1024 * 1024;
constexpr double kCards[] = {8, 12, 16, 24, 32, 48, 80, 141};  // GiB of cards on the market
constexpr double kDriverShare = 0.75;                          // GiB that a CUDA context and its libraries take
constexpr double kReservedShare = 0.35;                        // GiB of a card's name that no program sees

struct Needs {
  int64_t weights = 0, workspace = 0;
  int64_t driver = 0, graphs = 0;      // of a GPU
  int64_t per_token = 0, windows = 0;  // bytes of cache
  int64_t context = 0, limit = 0;      // tokens: asked for, and the model's most

  int64_t total(int64_t tokens) const { return weights + workspace + driver + graphs + windows + per_token * tokens; }
};

Json row(const std::string& name, int64_t bytes, const Needs& needs) {
  const int64_t left = bytes - needs.total(0);
  int64_t longest = 0;
  if (left > 0) longest = needs.per_token > 0 ? std::min(needs.limit, left / needs.per_token) : needs.limit;
  return {{"device", name}, {"bytes", bytes}, {"fits", bytes >= needs.total(needs.context)}, {"max_context", longest}};
}

Json device_rows(const Needs& needs, const ForecastOptions& options) {
  Json rows = Json::array();
  if (!options.gpu) rows.push_back(row("cpu, this machine", available_memory(), needs));
  int index = 0;
  for (const DeviceInfo& card : cuda_devices(nullptr))
    rows.push_back(row(fmt::format("cuda:{}, {}", index++, card.name), card.free_bytes, needs));
  std::vector<double> cards(std::begin(kCards), std::end(kCards));
  cards.insert(cards.end(), options.card_gigabytes.begin(), options.card_gigabytes.end());
  std::ranges::sort(cards);
  cards.erase(std::unique(cards.begin(), cards.end()), cards.end());
  for (double size : cards) {
    const double unseen = options.gpu ? kReservedShare : kDriverShare;
    const auto bytes = static_cast<int64_t>(std::max(0.0, size - unseen) * kGiB);
    rows.push_back(row(fmt::format("a card of {:g} GB", size), bytes, needs));
  }
  return rows;
}

// What the cache of one sequence takes: a token in the layers that keep everything, and the layers with a window.
void count_cache(Needs& needs, const Model& model, const ForecastOptions& options) {
  for (const LayerCache& layer : model.cache().layers) {
    const int64_t bytes = token_bytes(layer, dtype_size(options.cache_dtype.value_or(options.dtype)));
    const bool whole = layer.window == 0 || options.ignore_window;
    (whole ? needs.per_token : needs.windows) += whole ? bytes : bytes * (layer.window - 1);
  }
}

Json account(const Needs& needs, const ForecastOptions& options) {
  return {{"context", needs.context},
          {"weight_bytes", needs.weights},
          {"cache_bytes", needs.windows + needs.per_token * needs.context},
          {"cache_bytes_per_token", needs.per_token},
          {"workspace_bytes", needs.workspace},
          {"total_bytes", needs.total(needs.context)},
          {"devices", device_rows(needs, options)}};
}

Json forecast_gpu(Checkpoint& checkpoint, Model& model, const ForecastOptions& options) {
  WeightPlan plan;
  model.declare(plan);
  checkpoint.bind_shapes(plan, {.dtype = options.dtype, .dequantize = options.dequantize});
  ThreadPool pool(options.threads);
  const Kernels kernels = Kernels::builtin(cpu_isa_from_env()).for_capability(options.capability);
  const ArrangeOptions arrange{
      .activations = options.dtype, .capability = options.capability, .fp8 = options.dense_fp8};
  const RunnerOptions run{.dtype = options.dtype,
                          .cache_dtype = options.cache_dtype,
                          .max_context = options.context,
                          .max_sequences = options.max_requests,
                          .max_batch_tokens = options.max_batch_tokens,
                          .max_logit_rows = options.max_requests,
                          .ignore_window = options.ignore_window};
  const DeviceForecast f = forecast_device(plan, arrange, model, kernels, pool, run);
  Needs needs{.context = options.context, .limit = model.info().max_position_embeddings};
  count_cache(needs, model, options);
  needs.weights = f.weights, needs.workspace = f.workspace, needs.driver = f.driver, needs.graphs = f.graphs;
  needs.per_token *= options.max_requests;
  needs.windows = f.cache - needs.per_token * needs.context;  // whole pages, and room for one step's tokens
  Json out = account(needs, options);
  out["driver_bytes"] = f.driver;
  out["graph_bytes"] = f.graphs;
  out["max_requests"] = options.max_requests;
  out["measured"] = f.measured;
  return out;
}

}  // namespace

double card_that_holds(int64_t bytes) {
  for (double size : kCards)
    if (static_cast<double>(bytes) <= (size - kDriverShare) * kGiB) return size;
  return 0;
}

Json forecast_memory(Checkpoint& checkpoint, Model& model, const ForecastOptions& options) {
  if (options.gpu) return forecast_gpu(checkpoint, model, options);
  const LoadSettings settings{.dtype = options.dtype, .dequantize = options.dequantize};
  WeightPlan plan;
  model.declare(plan);
  Needs needs{.context = options.context, .limit = model.info().max_position_embeddings};
  for (const LoadedRow& loaded : checkpoint.forecast(plan, settings)) needs.weights += loaded.memory_bytes;
  count_cache(needs, model, options);
  checkpoint.bind_shapes(plan, settings);
  ThreadPool pool(options.threads);
  std::unique_ptr<DeviceContext> cpu = make_cpu_context();
  const Kernels kernels = Kernels::builtin(cpu_isa_from_env());
  const RunnerOptions run{.dtype = options.dtype,
                          .cache_dtype = options.cache_dtype,
                          .max_context = options.context,
                          .ignore_window = options.ignore_window};
  // Its memory is address space that nothing touches.
  needs.workspace = Runner(model, kernels, pool, *cpu, run).memory().scratch_bytes;
  return account(needs, options);
}

}  // namespace tessera
