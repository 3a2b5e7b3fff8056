#include "api/device_plan.h"

#include <linux/magic.h>
#include <sys/vfs.h>

#include <algorithm>
#include <filesystem>

#include "api/describe.h"
#include "core/error.h"
#include "core/host_memory.h"
#include "engine/bandwidth.h"
#include "engine/cache_budget.h"
#include "engine/expert_stream.h"
#include "loading/strict_json.h"
#include "models/registry.h"
#include "parallel/comm_model.h"

namespace tessera {

namespace {

constexpr double kGiB = 1024.0 * 1024 * 1024;
constexpr double kAssumedDisk = 2e9;  // bytes a second, where no file is there to be read
constexpr int64_t kMostMapBytes = int64_t{16} << 20;
// Of main memory beside experts: the process, its pinned buffers, other programs.
constexpr int64_t kHostReserve = int64_t{2} << 30;

double gib(int64_t bytes) {
  return static_cast<double>(bytes) / kGiB;
}

struct Counted {
  std::vector<int64_t> experts;  // bytes a layer
  int64_t dense = 0, looked_up = 0;
  int64_t experts_a_layer = 0;  // E
};

Counted count_weights(const Checkpoint& checkpoint, const WeightPlan& plan, const ForecastOptions& o, int64_t layers) {
  constexpr int64_t kPadding = 1024;  // of a weight's two tensors on a device
  Counted counted{.experts = std::vector<int64_t>(static_cast<size_t>(layers))};
  size_t i = 0;
  for (const LoadedRow& row : checkpoint.forecast(plan, {.dtype = o.dtype, .dequantize = o.dequantize})) {
    const WeightRow& declared = plan.rows()[i++];
    const int64_t layer = layer_of_weight(declared.name);
    if (is_layers_expert(declared)) {
      counted.experts.at(static_cast<size_t>(layer)) += row.memory_bytes + kPadding;
      counted.experts_a_layer = declared.shape[0];
    } else {
      counted.dense += row.memory_bytes;
      if (declared.looked_up) counted.looked_up += row.memory_bytes;
    }
  }
  return counted;
}

// A model of the config's shapes whose weights are nowhere.
struct Shapes {
  Shapes(const std::string& config, const DevicePlanRequest& r)
      : checkpoint(Checkpoint::from_config(config)), model(make_model(checkpoint.config())) {
    model->declare(plan);
    checkpoint.bind_shapes(plan, {.dtype = r.forecast.dtype, .dequantize = r.forecast.dequantize});
  }
  Checkpoint checkpoint;
  std::unique_ptr<Model> model;
  WeightPlan plan;
};

// A forecast with everything on the device; its cache is what is asked for.
DeviceForecast forecast_all(const std::string& config, const DevicePlanRequest& r, const ArrangeOptions& arrange) {
  Shapes shapes(config, r);
  ThreadPool one(1);
  const Kernels kernels = Kernels::builtin(cpu_isa_from_env()).for_capability(r.forecast.capability);
  const RunnerOptions run{.dtype = r.forecast.dtype,
                          .cache_dtype = r.forecast.cache_dtype,
                          .max_context = r.forecast.context,
                          .max_sequences = r.forecast.max_requests,
                          .max_batch_tokens = r.forecast.max_batch_tokens,
                          .ignore_window = r.forecast.ignore_window};
  DeviceForecast f = forecast_device(shapes.plan, arrange, *shapes.model, kernels, one, run);
  f.cache /= r.forecast.max_requests;  // more sequences share what is left
  if (r.cache_memory > 0) f.cache = r.cache_memory;
  return f;
}

// Of the weights that are no layer's experts, as the device holds them.
int64_t lay_out_dense(const std::string& config, const DevicePlanRequest& r, const ArrangeOptions& arrange) {
  Shapes shapes(config, r);
  shapes.plan.keep_on_host(is_layers_expert);
  return lay_out_weights(shapes.plan, arrange, {DeviceType::kCuda});
}

DeviceMap choose_map(const DevicePlanRequest& r, const MapDemand& demand) {
  const auto layers = static_cast<int64_t>(demand.experts.size());
  const bool experts = std::any_of(demand.experts.begin(), demand.experts.end(), [](int64_t n) { return n > 0; });
  if (r.cpu_moe > 0 && !r.device_map.empty())
    fail(ErrorCode::kInvalidArgument, "--cpu-moe and --device-map say the same thing twice; give one of them");
  if (!experts && (r.cpu_moe > 0 || (!r.device_map.empty() && r.device_map != "auto"))) {
    fail(ErrorCode::kUnsupported,
         "only experts can be kept off the device, and this model has none; use --tp with "
         "several GPUs, a larger one, or --device cpu");
  }
  if (r.cpu_moe > 0) return map_cpu_moe(demand, r.cpu_moe);
  if (r.device_map == "auto") return map_automatically(demand);
  if (r.device_map.ends_with(".json"))
    return read_device_map(read_strict_json_file(r.device_map, kMostMapBytes), layers, r.device_map);
  return parse_device_map(r.device_map, layers);
}

void check_fits(const DevicePlanRequest& r, const DevicePlan& plan, int64_t dense) {
  const int64_t needed = device_bytes_of(plan.map, plan.demand);
  if (needed <= r.device_free) return;
  if (plan.demand.device_fixed + plan.demand.staging > r.device_free) {
    const double card = card_that_holds(plan.demand.device_fixed + plan.demand.staging);
    fail(ErrorCode::kOutOfMemory,
         "{} has {:.2f} GiB for this model, and even without experts it takes {:.2f}: weights {:.2f}, a cache of {} "
         "tokens {:.2f}, workspace, staging and what stays free {:.2f}; {}lower --max-context, --dense fp8, or "
         "--device cpu",
         r.device, gib(r.device_free), gib(plan.demand.device_fixed + plan.demand.staging), gib(dense), plan.context,
         gib(plan.forecast.cache), gib(plan.forecast.workspace + plan.demand.staging + plan.reserve),
         card > 0 ? fmt::format("a card of {:g} GB would do, or ", card) : "");
  }
  const DeviceMap fits = map_automatically(plan.demand);
  const auto moved = std::count_if(fits.begin(), fits.end(), [](Place p) { return p != Place::kDevice; });
  fail(ErrorCode::kOutOfMemory,
       "{} has {:.2f} GiB for this model, and would have to hold {:.2f} ({}); --cpu-moe {} or "
       "--device-map auto fits",
       r.device, gib(r.device_free), gib(needed), map_text(plan.map), moved);
}

bool in_memory(const std::string& folder) {
  struct statfs fs {};
  return statfs(folder.c_str(), &fs) == 0 && (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC);
}

std::string first_weights(const std::string& folder) {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored))
    if (entry.path().extension() == ".safetensors") return entry.path().string();
  return "";
}

}  // namespace

bool DevicePlan::offloads() const {
  return std::any_of(map.begin(), map.end(), [](Place p) { return p != Place::kDevice; });
}

DevicePlan plan_devices(const std::string& config, const DevicePlanRequest& asked) {
  DevicePlanRequest r = asked;
  const Checkpoint checkpoint = Checkpoint::from_config(config);
  const std::unique_ptr<Model> model = make_model(checkpoint.config());
  const ModelInfo& info = model->info();
  WeightPlan rows;
  model->declare(rows);
  const Counted counted = count_weights(checkpoint, rows, r.forecast, info.num_hidden_layers);
  if (r.forecast.context == 0) r.forecast.context = std::min(kUsualContext, info.max_position_embeddings);

  DevicePlan plan{.context = r.forecast.context,
                  .cpu = r.cpu,
                  .device = r.device,
                  .device_total = r.device_total,
                  .rates = r.rates};
  const ArrangeOptions arrange{
      .activations = r.forecast.dtype, .capability = r.forecast.capability, .fp8 = r.forecast.dense_fp8};
  plan.forecast = forecast_all(config, r, arrange);
  MapDemand& demand = plan.demand;
  demand.experts = counted.experts;
  const int64_t dense = plan.forecast.measured && !r.cpu ? lay_out_dense(config, r, arrange) : counted.dense;
  plan.reserve = r.cpu ? kHostReserve : std::max(device_reserve(r.device_total), plan.forecast.graphs);
  demand.device_fixed = dense + plan.forecast.workspace + plan.forecast.cache + plan.reserve;
  demand.device_bytes = r.device_free;
  if (!r.cpu)
    demand.staging = ExpertStream::device_bytes(*std::max_element(demand.experts.begin(), demand.experts.end()));
  demand.host_bytes = r.cpu ? 0 : r.host_free - kHostReserve;
  plan.map = choose_map(r, demand);
  if (!r.cpu) check_fits(r, plan, dense);

  const int64_t active = info.experts_per_token, all = std::max<int64_t>(counted.experts_a_layer, 1);
  plan.token = {
      .device_bytes = dense - counted.looked_up + bytes_in(plan.map, demand, Place::kDevice) / all * active,
      .host_bytes = bytes_in(plan.map, demand, Place::kHost) / all * active,
      .disk_bytes = bytes_in(plan.map, demand, Place::kDisk) / all * active,
      .layers = info.num_hidden_layers,
      .hosted_layers = std::count_if(plan.map.begin(), plan.map.end(), [](Place p) { return p != Place::kDevice; })};
  plan.seconds = predict_token(plan.token, plan.rates);
  return plan;
}

Json describe_device_plan(const DevicePlan& plan) {
  auto place = [&](Place p) {
    return Json{{"layers", std::count(plan.map.begin(), plan.map.end(), p)},
                {"expert_bytes", bytes_in(plan.map, plan.demand, p)}};
  };
  Json out{{"device", plan.device},
           {"device_total_bytes", plan.device_total},
           {"device_free_bytes", plan.demand.device_bytes},
           {"device_map", map_text(plan.map)},
           {"gpu", place(Place::kDevice)},
           {"cpu", place(Place::kHost)},
           {"disk", place(Place::kDisk)},
           {"context", plan.context},
           {"cache_bytes", plan.forecast.cache},
           {"workspace_bytes", plan.forecast.workspace},
           {"staging_bytes", plan.offloads() ? plan.demand.staging : 0},
           {"reserve_bytes", plan.reserve},
           {"device_bytes", device_bytes_of(plan.map, plan.demand)}};
  out["gpu"]["dense_bytes"] = plan.demand.device_fixed - plan.forecast.workspace - plan.forecast.cache - plan.reserve;
  out["token"] = {{"gpu_bytes", plan.token.device_bytes},
                  {"cpu_bytes", plan.token.host_bytes},
                  {"disk_bytes", plan.token.disk_bytes},
                  {"gpu_ms", plan.seconds.device * 1e3},
                  {"cpu_ms", plan.seconds.host * 1e3},
                  {"disk_ms", plan.seconds.disk * 1e3},
                  {"handover_ms", plan.seconds.handover * 1e3},
                  {"ms", plan.seconds.total() * 1e3},
                  {"cpu_bound_ms", plan.host_bound_seconds() * 1e3}};
  out["rates"] = {{"gpu", plan.rates.device}, {"cpu", plan.rates.host}, {"disk", plan.rates.disk}};
  return out;
}

std::string device_plan_text(const DevicePlan& plan) {
  const Json p = describe_device_plan(plan);
  const char* const here = plan.cpu ? "memory" : "gpu";
  std::string text = fmt::format("placement on {} ({:.2f} GiB, {:.2f} of it for this model): {}\n", plan.device,
                                 gib(plan.device_total), gib(plan.demand.device_bytes), map_text(plan.map));
  text += fmt::format(
      "  {:<6} {:>3} layers' experts {:>7.2f} GiB; other weights {:.2f}, cache of {} tokens {:.2f}, workspace {:.2f}, "
      "staging {:.2f}, left free {:.2f}: {:.2f} GiB\n",
      here, p["gpu"]["layers"].dump(), gib(p["gpu"]["expert_bytes"]), gib(p["gpu"]["dense_bytes"]), plan.context,
      gib(plan.forecast.cache), gib(plan.forecast.workspace), gib(p["staging_bytes"]), gib(plan.reserve),
      gib(p["device_bytes"]));
  for (const char* place : {"cpu", "disk"}) {
    if (p[place]["layers"] == 0) continue;
    text += fmt::format("  {:<6} {:>3} layers' experts {:>7.2f} GiB\n", place, p[place]["layers"].dump(),
                        gib(p[place]["expert_bytes"]));
  }
  auto reads = [&](const char* place, int64_t bytes, double rate) {
    return fmt::format("{} {:.2f} GB at {:.0f} GB/s", place, static_cast<double>(bytes) * 1e-9, rate * 1e-9);
  };
  text += fmt::format("  a token reads: {}", reads(here, plan.token.device_bytes, plan.rates.device));
  if (plan.token.host_bytes > 0) text += ", " + reads("cpu", plan.token.host_bytes, plan.rates.host);
  if (plan.token.disk_bytes > 0) text += ", " + reads("disk", plan.token.disk_bytes, plan.rates.disk);
  text += fmt::format("\n  predicted {:.2f} ms a token ({:.1f} tokens/s): {} {:.2f}", plan.seconds.total() * 1e3,
                      1 / plan.seconds.total(), here, plan.seconds.device * 1e3);
  if (!plan.cpu) text += fmt::format(", cpu {:.2f}", plan.seconds.host * 1e3);
  text += fmt::format(", disk {:.2f}", plan.seconds.disk * 1e3);
  if (!plan.cpu) text += fmt::format(", handing over {:.2f}", plan.seconds.handover * 1e3);
  if (plan.token.host_bytes > 0 && plan.host_bound_seconds() > 0)
    text += fmt::format("; bound by main memory {:.1f} tokens/s", 1 / plan.host_bound_seconds());
  return text + "\n";
}

DevicePlanRequest device_plan_request(const LoadOptions& o, DType dtype, DeviceContext* context,
                                      const std::string& folder) {
  constexpr int64_t kH100Bytes = int64_t{81559} << 20;  // as its driver tells
  constexpr int64_t kServed = 32;                       // requests at once, for a server
  DevicePlanRequest r{.device_map = o.device_map, .cpu_moe = o.cpu_moe, .cache_memory = o.cache_memory};
  if (r.device_map.empty() && r.cpu_moe == 0) r.device_map = "auto";
  r.forecast = {.dtype = dtype,
                .cache_dtype = resolve_cache_dtype(o.cache_dtype),
                .dequantize = o.dequantize,
                .ignore_window = o.ignore_window,
                .context = o.max_context,
                .gpu = true,
                .dense_fp8 = o.dense == "fp8",
                .max_requests = o.own_cache ? 1 : kServed,
                .max_batch_tokens = o.max_batch_tokens};
  if (context == nullptr || context->device().type == DeviceType::kCuda)
    r.forecast.max_batch_tokens = std::max(o.max_batch_tokens, kStreamChunk);
  if (context != nullptr) {
    const DeviceInfo info = context->info();
    r.cpu = context->device().type == DeviceType::kCpu;
    r.device = info.name, r.device_total = info.total_bytes;
    r.device_free = r.cpu ? available_memory() : info.free_bytes;
    r.forecast.capability = info.capability;
  } else {
    r.device = h100_figures().name;
    r.device_total = o.device_memory > 0 ? std::min(o.device_memory, kH100Bytes) : kH100Bytes;
    r.device_free = r.device_total - kDriverBytes;
  }
  // What lies in memory already takes none.
  r.host_free = in_memory(folder) ? int64_t{1} << 50 : available_memory();
  return r;
}

void measure_rates(DevicePlan& plan, DeviceContext* context, const std::string& folder, ThreadPool& pool) {
  constexpr int64_t kLeast = int64_t{32} << 20, kMost = int64_t{1} << 30;
  const DeviceFigures& h100 = h100_figures();
  const bool cpu = context != nullptr && context->device().type == DeviceType::kCpu;
  const int64_t elsewhere =
      bytes_in(plan.map, plan.demand, Place::kHost) + bytes_in(plan.map, plan.demand, Place::kDisk);
  ReadRates& rates = plan.rates;
  if (context != nullptr && !cpu) rates.device = measure_device_bandwidth(*context);
  if (rates.device == 0) rates.device = h100.gigabytes_per_s * 1e9;
  if (cpu || elsewhere > 0)
    rates.host = measure_host_bandwidth(pool, cpu ? kMost : std::clamp(elsewhere, kLeast, kMost)).median;
  if (cpu) rates.device = rates.host;
  if (bytes_in(plan.map, plan.demand, Place::kDisk) > 0) {
    const std::string file = first_weights(folder);
    if (!file.empty()) rates.disk = measure_disk_bandwidth(file, pool);
    if (rates.disk == 0) rates.disk = in_memory(folder) ? rates.host : kAssumedDisk;
  }
  rates.layer_seconds = cpu ? 0 : h100.layer_us * 1e-6;
  rates.handover_seconds = cpu ? 0 : kHandoverSeconds;
  plan.seconds = predict_token(plan.token, rates);
}

}  // namespace tessera
