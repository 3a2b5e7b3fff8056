// tessera inspect: what a checkpoint holds and what it needs, from its headers or from config.json alone; no weight is
// read.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>

#include "api/describe.h"
#include "api/device_plan.h"
#include "api/memory_forecast.h"
#include "cli/commands.h"
#include "cli/hub_model.h"
#include "cli/options.h"
#include "cli/terminal.h"
#include "models/registry.h"

namespace tessera::cli {

namespace {

constexpr const char* kExamples = R"(
examples:
  tessera inspect models/glossary
  tessera inspect MODEL --tensors                     every tensor: shape, type in the file and in memory
  tessera inspect MODEL --dequantize --tensors        the same with experts expanded to bf16
  tessera inspect MODEL --json | jq .memory
  tessera inspect openai/gpt-oss-120b                 before downloading it: fetches config.json and forecasts the rest
  tessera inspect config.json --max-context 32768 --fit 20
  tessera inspect openai/gpt-oss-120b --device cuda --max-context 131072 --max-requests 3
  tessera inspect openai/gpt-oss-120b --device-map auto --device-memory 24GiB

Only headers are read, so this takes no longer for 120 billion parameters than for one. Where there are no weight files,
or MODEL is a config.json, the account is what that configuration leads to. Of a card's memory 0.75 GB are taken off for
the driver. With --device cuda the account is that of a process on a GPU, measured with the GPU's kernels where the
program has them; no GPU is needed for it.)";

struct Options {
  ModelOptions model;
  bool tensors = false;
  std::vector<double> fit;
  int64_t max_requests = 1, max_batch_tokens = 512;
};

// The GPU to count for: this machine's, or Hopper's kind where there is none. Null: none was named.
std::optional<int> gpu_capability(const std::string& device) {
  constexpr int kHopper = 90;
  if (!device.starts_with("cuda")) return std::nullopt;
  const std::vector<DeviceInfo> cards = cuda_devices(nullptr);
  return cards.empty() ? kHopper : cards[0].capability;
}

// MODEL as a checkpoint: from weight files where there are any, else from config.json. A hub id that is not in the
// cache costs one small file.
Checkpoint open_model(const std::string& model) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  if (fs::is_regular_file(model, ignored) && fs::path(model).extension() == ".json")
    return Checkpoint::from_config(model);
  if (!fs::exists(model, ignored)) {
    if (std::optional<hub::HubId> id = hub::parse_hub_id(model)) {
      const hub::HubSettings settings = hub::settings_from_env();
      if (auto whole = hub::find_in_cache(settings, *id, hub::Need::kModel)) return Checkpoint::open(*whole);
      return Checkpoint::from_config(model_folder(model, hub::Need::kConfig));
    }
  }
  const std::string folder = find_model(model);
  bool weights = !fs::exists(fs::path(folder) / "config.json", ignored);  // open() says what is missing
  for (const auto& entry : fs::directory_iterator(folder, ignored))
    weights |= entry.path().extension() == ".safetensors";
  return weights ? Checkpoint::open(folder) : Checkpoint::from_config(folder);
}

// describe_model() as the flags say, plus "memory_dequantize": the same account with experts expanded to bf16; and
// "forecast": whether all of it fits.
Json inspect(const Options& options) {
  const LoadOptions& load = options.model.load;
  Checkpoint checkpoint = open_model(options.model.model);
  std::unique_ptr<Model> model = make_model(checkpoint.config());
  WeightPlan plan;
  model->declare(plan);
  const DType dtype = resolve_dtype(load.dtype, checkpoint.config());
  auto describe = [&](bool dequantize) {
    return describe_model(checkpoint, *model, checkpoint.forecast(plan, {dtype, dequantize}), dtype, load.ignore_window,
                          resolve_cache_dtype(load.cache_dtype));
  };
  Json as_is = describe(false), dequantized = describe(true);
  Json out = load.dequantize ? dequantized : as_is;
  out["memory"] = as_is["memory"];
  out["memory_dequantize"] = dequantized["memory"];
  const int64_t limit = model->info().max_position_embeddings;
  out["context"] = load.max_context > 0 ? std::min(load.max_context, limit) : limit;
  const std::optional<int> gpu = gpu_capability(load.device);
  out["forecast"] = forecast_memory(checkpoint, *model,
                                    {.dtype = dtype,
                                     .cache_dtype = resolve_cache_dtype(load.cache_dtype),
                                     .dequantize = load.dequantize,
                                     .ignore_window = load.ignore_window,
                                     .threads = load.threads,
                                     .context = out["context"].get<int64_t>(),
                                     .card_gigabytes = options.fit,
                                     .gpu = gpu.has_value(),
                                     .capability = gpu.value_or(0),
                                     .dense_fp8 = load.dense == "fp8",
                                     .max_requests = options.max_requests,
                                     .max_batch_tokens = options.max_batch_tokens});
  if (wants_placement(load)) {
    ThreadPool pool(load.threads);
    DevicePlan placed =
        plan_devices(checkpoint.folder(), device_plan_request(load, dtype, nullptr, checkpoint.folder()));
    measure_rates(placed, nullptr, checkpoint.folder(), pool);
    out["placement"] = describe_device_plan(placed);
    out["placement"]["text"] = device_plan_text(placed);
  }
  return out;
}

std::string bytes(const Json& value) {
  auto n = value.get<double>();
  if (n < 1e3) return fmt::format("{} B", n);
  if (n < 1e6) return fmt::format("{:.1f} kB", n / 1e3);
  return n < 1e9 ? fmt::format("{:.1f} MB", n / 1e6) : fmt::format("{:.2f} GB", n / 1e9);
}

std::string count(const Json& value) {
  auto n = value.get<double>();
  if (n < 1e6) return fmt::format("{:.1f} K", n / 1e3);
  return n < 1e9 ? fmt::format("{:.1f} M", n / 1e6) : fmt::format("{:.2f} B", n / 1e9);
}

std::string joined(const Json& list) {
  std::string text;
  for (const Json& item : list)
    text += (text.empty() ? "" : ", ") + (item.is_string() ? item.get<std::string>() : item.dump());
  return text;
}

// Rows are kinds of weight; columns are memory as it is loaded, and with --dequantize.
std::string memory_table(const Json& in) {
  const Json &as_is = in["memory"], &expanded = in["memory_dequantize"];
  std::string text = fmt::format("{:<24}{:>12}{:>14}{:>14}\n", "weights", "parameters", "in memory", "--dequantize");
  for (const auto& [kind, row] : as_is["by_kind"].items()) {
    text += fmt::format("  {:<22}{:>12}{:>14}{:>14}\n", kind, count(row["parameters"]), bytes(row["memory_bytes"]),
                        bytes(expanded["by_kind"][kind]["memory_bytes"]));
  }
  text += fmt::format("  {:<22}{:>12}{:>14}{:>14}\n", "together", count(in["parameters"]), bytes(as_is["weight_bytes"]),
                      bytes(expanded["weight_bytes"]));
  return text + fmt::format("  {:<22}{:>12}{:>14}{:>14}\n", "of it the files' pages", "", bytes(as_is["mapped_bytes"]),
                            bytes(expanded["mapped_bytes"]));
}

std::string cache_lines(const Json& in) {
  const Json& cache = in["cache"];
  auto growing = cache["bytes_per_token"].get<int64_t>(), windows = cache["window_bytes_per_sequence"].get<int64_t>();
  auto context = in["context"].get<int64_t>();
  std::string text = fmt::format("cache of a sequence\n  {} a token", bytes(growing));
  if (windows > 0) text += fmt::format(", and at most {} for the layers with a window", bytes(windows));
  return text +
         fmt::format("\n  {} when the context of {} tokens is full\n", bytes(growing * context + windows), context);
}

std::string sequences(const Json& forecast) {
  const int64_t n = forecast.value("max_requests", int64_t{1});
  return n == 1 ? "one sequence" : fmt::format("{} sequences, each", n);
}

std::string forecast_lines(const Json& in) {
  const Json& f = in["forecast"];
  std::string text = fmt::format("memory for {} of {} tokens\n  {}: weights {}, cache {}, workspace {}", sequences(f),
                                 f["context"].dump(), bytes(f["total_bytes"]), bytes(f["weight_bytes"]),
                                 bytes(f["cache_bytes"]), bytes(f["workspace_bytes"]));
  if (f.contains("driver_bytes")) {
    text += fmt::format(", recorded steps {}, the driver {}{}", bytes(f["graph_bytes"]), bytes(f["driver_bytes"]),
                        f["measured"].get<bool>() ? "" : " (a build without CUDA: the workspace is a bound)");
  }
  text += "\n";
  text += fmt::format("{:<40}{:>12}{:>8}{:>18}\n", "does it fit", "free", "", "longest context");
  for (const Json& device : f["devices"]) {
    auto longest = device["max_context"].get<int64_t>();
    text += fmt::format("  {:<38}{:>12}{:>8}{:>18}\n", device["device"].get<std::string>(), bytes(device["bytes"]),
                        device["fits"].get<bool>() ? "yes" : "no", longest > 0 ? std::to_string(longest) : "-");
  }
  return text;
}

std::string as_text(const Json& in, bool tensors) {
  std::string text = fmt::format(
      "{}\n  {}, {} parameters, {} layers, hidden size {}, vocabulary {}\n  context {}, activations in {}\n",
      in["folder"].get<std::string>(), in["architecture"].get<std::string>(), count(in["parameters"]),
      in["num_hidden_layers"].dump(), in["hidden_size"].dump(), in["vocab_size"].dump(), in["context"].dump(),
      in["dtype"].get<std::string>());
  const Json& quantization = in["quantization_config"];
  if (quantization.is_null()) {
    text += "quantization_config\n  none\n";
  } else {
    text +=
        fmt::format("quantization_config\n  quant_method: {}\n  modules_to_not_convert: {}\n",
                    quantization["quant_method"].get<std::string>(), joined(quantization["modules_to_not_convert"]));
  }
  const bool read = in["weight_files_read"].get<bool>();
  text +=
      fmt::format("files\n  {}{}\n", bytes(in["file_bytes"]), read ? "" : " of weights, by config.json; none is here");
  text += memory_table(in) + cache_lines(in) + forecast_lines(in);
  if (in.contains("placement")) text += in["placement"]["text"].get<std::string>();
  if (!tensors) return text;
  text += "tensors: shape, type and size in the file, type and size in memory\n";
  for (const Json& row : in["tensors"]) {
    auto why = row["why"].get<std::string>();
    text += fmt::format("  {} [{}] {} {}, {} {}{}{}\n", row["name"].get<std::string>(), joined(row["shape"]),
                        row["stored"].get<std::string>(), bytes(row["file_bytes"]), row["in_memory"].get<std::string>(),
                        bytes(row["memory_bytes"]), why.empty() ? "" : ": ", why);
  }
  return text;
}

}  // namespace

int cmd_inspect(Invocation& call) {
  CLI::App app{"Shows what a checkpoint holds and what it needs: configuration, quantisation, memory, cache, tensors.",
               "tessera inspect"};
  Options options;
  add_model_options(app, options.model);
  app.add_flag("--tensors", options.tensors, "list every tensor (--json always does)");
  app.add_option("--fit", options.fit, "also say whether it fits a card of so many GB; may be repeated")
      ->allow_extra_args(false)
      ->check(CLI::Range(0.1, 1e6));
  app.add_option("--max-requests", options.max_requests, "sequences at once, when it is to run on a GPU")
      ->check(CLI::Range(int64_t{1}, int64_t{65536}))
      ->capture_default_str();
  app.add_option("--max-batch-tokens", options.max_batch_tokens, "tokens in one step, likewise")
      ->check(CLI::Range(int64_t{1}, int64_t{65536}))
      ->capture_default_str();
  app.footer(kExamples);
  if (!parse(app, call)) return 0;
  Json in = inspect(options);
  if (call.json) {
    call.out.json(in);
  } else {
    call.out.text(printable(as_text(in, options.tensors)));
  }
  return 0;
}

}  // namespace tessera::cli
