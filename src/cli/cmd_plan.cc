// tessera plan: how a model would be split over ranks, and what that costs.
#include <CLI/CLI.hpp>
#include <filesystem>

#include "api/describe.h"
#include "api/device_plan.h"
#include "api/parallel_plan.h"
#include "api/rank_team.h"
#include "cli/commands.h"
#include "cli/hub_model.h"
#include "cli/options.h"
#include "core/error.h"
#include "models/registry.h"

namespace tessera::cli {

namespace {

constexpr const char* kExamples = R"(
examples:
  tessera plan openai/gpt-oss-120b --tp 4 --ep 2
  tessera plan config.json --tp 3 --json
  tessera plan MODEL --ep 8 --attention dp
  tessera plan openai/gpt-oss-120b --device-map auto --device-memory 24GiB

The last one says which layers' experts stay in main memory or on disk where one GPU is too small for all of them, and what
a token then costs; main memory is measured here, the GPU is taken to be an H100 with that much memory.

config.json is all that is read. Inner widths of MXFP4 experts are split in blocks of 32; with --device cuda in 64s, which
a GPU's matrix units take at once. Predictions are for H100s, see docs/scaling.md.)";

// A hub id that is not in the cache costs one small file.
Checkpoint open_config(const std::string& model) {
  std::error_code ignored;
  if (std::filesystem::exists(model, ignored)) return Checkpoint::from_config(model);
  return Checkpoint::from_config(model_folder(model, hub::Need::kConfig));
}

std::string bytes(const Json& value) {
  const auto n = value.get<double>();
  if (n < 1e3) return fmt::format("{:.0f} B", n);
  if (n < 1e6) return fmt::format("{:.1f} KB", n / 1e3);
  return n < 1e9 ? fmt::format("{:.1f} MB", n / 1e6) : fmt::format("{:.2f} GB", n / 1e9);
}

std::string layer_range(const Json& layers) {
  if (layers.size() == 1 && layers[0] == -1) return "outside of layers";
  std::string text;
  for (size_t i = 0; i < layers.size();) {
    size_t j = i;
    while (j + 1 < layers.size() && layers[j + 1].get<int>() == layers[j].get<int>() + 1) ++j;
    text += fmt::format("{}{}", text.empty() ? "layers " : ", ", layers[i].get<int>());
    if (j > i) text += fmt::format(" to {}", layers[j].get<int>());
    i = j + 1;
  }
  return text;
}

std::string as_text(const Json& plan) {
  std::string text = fmt::format("{} over {} ranks: --tp {} --ep {}{}\n", plan["architecture"].get<std::string>(),
                                 plan["ranks"].size(), plan["tp"].dump(), plan["ep"].dump(),
                                 plan["attention"] == "dp" ? " --attention dp" : "");
  for (const Json& group : plan["recipe"]) {
    text += layer_range(group["layers"]) + "\n";
    for (const Json& row : group["rows"]) {
      std::string shape;
      for (const Json& n : row["shape"]) shape += (shape.empty() ? "" : ", ") + n.dump();
      const auto shares = row["shares"].get<std::string>();
      text += fmt::format("  {:<34}{:<20}{}{}{}\n", row["name"].get<std::string>(), "[" + shape + "]",
                          row["split"].get<std::string>(), shares.empty() ? "" : ": ", shares);
    }
  }
  const bool limited = plan["ranks"][0].contains("left_bytes");
  text += fmt::format("{:<6}{:>7}{:>5}{:>12}{:>18}{:>12}{:>16}{}\n", "rank", "query", "kv", "experts", "vocabulary",
                      "weights", "cache a token", limited ? "   left of the limit" : "");
  for (const Json& r : plan["ranks"]) {
    auto range = [](const Json& v) {
      const auto begin = v[0].get<int64_t>(), count = v[1].get<int64_t>();
      return count == 0 ? std::string("-") : fmt::format("{}-{}", begin, begin + count - 1);
    };
    text += fmt::format("{:<6}{:>7}{:>5}{:>12}{:>18}{:>12}{:>16}{}\n", r["rank"].dump(), r["query_heads"].dump(),
                        r["kv_heads"].dump(), range(r["experts"]), range(r["vocabulary"]), bytes(r["weight_bytes"]),
                        bytes(r["cache_bytes_a_token"]), limited ? fmt::format("{:>20}", bytes(r["left_bytes"])) : "");
  }
  const Json& c = plan["communication"];
  text += fmt::format(
      "communication of a rank: {} sent for a token, {} collectives a step\n  attention {}: {} a layer; experts {}: {} "
      "a "
      "layer; logits: {} a row, {} when greedy{}\n",
      bytes(c["bytes_sent_a_token"]), c["collectives_a_step"].dump(), c["attention"]["kind"].get<std::string>(),
      bytes(c["attention"]["bytes_sent_a_token_a_layer"]), c["experts"]["kind"].get<std::string>(),
      bytes(c["experts"]["bytes_sent_a_token_a_layer"]), bytes(c["logits"]["bytes_sent_a_row"]),
      bytes(c["logits"]["greedy_bytes_sent_a_row"]),
      plan["attention"] == "dp" ? ", after " + bytes(c["logits"]["hidden_bytes_sent_a_row"]) + " of hidden state" : "");
  if (plan["attention"] == "dp") text += "  (of all groups' tokens, the mean over ranks)\n";
  text += fmt::format("predicted on {}s\n", plan["prediction"][0]["device"].get<std::string>());
  for (const Json& p : plan["prediction"])
    text += fmt::format("  {:<18}{:>4} sequences: {:.2f} ms a step, {:.2f} of them communication; {:.0f} tokens/s\n",
                        p["link"].get<std::string>(), p["sequences"].get<int>(), p["ms_a_step"].get<double>(),
                        p["communication_ms"].get<double>(), p["tokens_per_second"].get<double>());
  return text;
}

// A table for Markdown; the best plan of each number of GPUs in bold.
std::string scaling_text(const Json& rows) {
  std::string text =
      "| GPUs | plan | replicas | link | ms a token, one sequence | sequences | tokens/s "
      "|\n|---|---|---|---|---|---|---|\n";
  for (const Json& row : rows) {
    auto best = [&](const char* key, bool least) {
      for (const Json& other : rows) {
        const bool better = least ? other[key] < row[key] : other[key] > row[key];
        if (other["gpus"] == row["gpus"] && better) return false;
      }
      return true;
    };
    auto shown = [](const std::string& value, bool bold) { return bold ? "**" + value + "**" : value; };
    text += fmt::format(
        "| {} | `--tp {} --ep {}{}` | {} | {} | {} | {} | {} |\n", row["gpus"].dump(), row["tp"].dump(),
        row["ep"].dump(), row["attention"] == "dp" ? " --attention dp" : "", row["replicas"].dump(),
        row["link"].get<std::string>(),
        shown(fmt::format("{:.2f}", row["ms_a_token_alone"].get<double>()), best("ms_a_token_alone", true)),
        row["sequences"].get<int64_t>(),
        shown(fmt::format("{:.0f}", row["tokens_per_second"].get<double>()), best("tokens_per_second", false)));
  }
  return text;
}

void show_placement(Invocation& call, const LoadOptions& load, const Checkpoint& checkpoint) {
  ThreadPool pool(load.threads);
  const DType dtype = resolve_dtype(load.dtype, checkpoint.config());
  DevicePlan plan = plan_devices(checkpoint.folder(), device_plan_request(load, dtype, nullptr, checkpoint.folder()));
  measure_rates(plan, nullptr, checkpoint.folder(), pool);
  if (call.json) {
    call.out.json(describe_device_plan(plan));
  } else {
    call.out.text(device_plan_text(plan));
  }
}

}  // namespace

int cmd_plan(Invocation& call) {
  CLI::App app{"Shows how a model is split over ranks: what each holds, sends and takes.", "tessera plan"};
  ModelOptions options;
  options.load.device = "cpu";
  app.add_option("MODEL", options.model, "a Hugging Face folder, a config.json, or a hub id")->required();
  app.add_option("--device", options.load.device, "what the ranks are: cpu or cuda")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  app.add_option("--dtype", options.load.dtype, "type of activations and plain weights; auto: the checkpoint's")
      ->check(CLI::IsMember({"auto", "float32", "bfloat16", "float16"}))
      ->capture_default_str();
  app.add_flag("--dequantize", options.load.dequantize, "expand MXFP4 experts to bf16");
  add_rank_options(app, options);
  add_placement_options(app, options);
  app.add_option("--max-context", options.load.max_context, "with these: tokens that the cache must hold")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 31));
  bool scaling = false;
  app.add_flag("--scaling", scaling, "predictions for 1 to 64 H100s instead: the table of docs/scaling.md");
  app.footer(kExamples);
  if (!parse(app, call)) return 0;
  const Checkpoint checkpoint = open_config(options.model);
  const std::unique_ptr<Model> model = make_model(checkpoint.config());
  WeightPlan plan;
  model->declare(plan);
  const bool cuda = options.load.device == "cuda";
  const Mesh mesh = resolve_mesh(options.load, checkpoint, plan, cuda);
  const bool places = !options.load.device_map.empty() || options.load.cpu_moe > 0;
  if (wants_placement(options.load) && (places || mesh.ranks() == 1)) {
    show_placement(call, options.load, checkpoint);
    return 0;
  }
  PlanRequest request{.mesh = mesh,
                      .dispatch = options.load.experts != "all-reduce" && !cuda,
                      .dtype = resolve_dtype(options.load.dtype, checkpoint.config()),
                      .dequantize = options.load.dequantize,
                      .device_memory = options.load.device_memory};
  request.dispatch = (request.dispatch || request.mesh.split_tokens) && request.mesh.expert > 1;
  request.on_gpus = cuda;
  const Json out = scaling ? scaling_table(checkpoint, *model, request) : describe_plan(checkpoint, *model, request);
  if (call.json) {
    call.out.json(out);
  } else {
    call.out.text(scaling ? scaling_text(out) : as_text(out));
  }
  return 0;
}

}  // namespace tessera::cli
