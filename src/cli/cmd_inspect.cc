// tessera inspect: what a checkpoint holds and what it needs, from its headers alone; no weight is read.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <map>

#include "cache/cache_spec.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/terminal.h"
#include "core/error.h"
#include "loading/checkpoint.h"
#include "models/registry.h"

namespace tessera::cli {

namespace {

constexpr const char* kExamples = R"(
examples:
  tessera inspect models/glossary
  tessera inspect MODEL --tensors                     every tensor: shape, type in the file and in memory
  tessera inspect MODEL --dequantize --tensors        the same with experts expanded to bf16
  tessera inspect MODEL --json | jq .memory

Only headers are read, so this takes no longer for 120 billion parameters than for one.)";

struct Options {
  ModelOptions model;
  bool tensors = false;
};

// What a checkpoint takes when loaded one way.
struct Forecast {
  std::vector<LoadedRow> rows;
  std::map<std::string, int64_t> by_kind;  // type in memory -> bytes
  int64_t file = 0, memory = 0, mapped = 0;
};

struct Inspection {
  Checkpoint checkpoint;
  std::unique_ptr<Model> model;
  int64_t parameters = 0;
  DType dtype = DType::kBF16;
  Forecast native, dequantized;
  std::vector<CacheGroup> groups;
  CacheSpec cache;
  int64_t context = 0;
};

Forecast forecast(const Checkpoint& checkpoint, const WeightPlan& plan, LoadSettings settings) {
  Forecast f;
  f.rows = checkpoint.forecast(plan, settings);
  for (const LoadedRow& row : f.rows) {
    f.by_kind[row.in_memory] += row.memory_bytes;
    f.file += row.file_bytes;
    f.memory += row.memory_bytes;
    if (row.mapped) f.mapped += row.memory_bytes;
  }
  return f;
}

Inspection inspect(const ModelOptions& options) {
  check_model_folder(options.model);
  Inspection result{.checkpoint = Checkpoint::open(options.model)};
  result.model = make_model(result.checkpoint.config());
  WeightPlan plan;
  result.model->declare(plan);
  for (const WeightRow& row : plan.rows()) {
    if (row.kind != RowKind::kAlias) result.parameters += row.shape.numel();
  }
  result.dtype = activation_dtype(options.load.dtype, result.checkpoint);
  result.native = forecast(result.checkpoint, plan, {result.dtype, false});
  result.dequantized = forecast(result.checkpoint, plan, {result.dtype, true});
  result.cache = result.model->cache();
  result.groups = group_layers(result.cache, options.load.ignore_window);
  result.context = result.model->info().max_position_embeddings;
  if (options.load.max_context > 0) result.context = std::min(result.context, options.load.max_context);
  return result;
}

// Bytes one token takes in the layers of a group.
int64_t group_token_bytes(const Inspection& in, const CacheGroup& group) {
  int64_t bytes = 0;
  for (int layer : group.layers) bytes += token_bytes(in.cache.layers[static_cast<size_t>(layer)], dtype_size(in.dtype));
  return bytes;
}

// Tokens a group keeps of a sequence that fills the context.
int64_t group_tokens(const Inspection& in, const CacheGroup& group) {
  return group.window > 0 ? std::min(group.window, in.context) : in.context;
}

int64_t context_bytes(const Inspection& in) {
  int64_t bytes = 0;
  for (const CacheGroup& group : in.groups) bytes += group_token_bytes(in, group) * group_tokens(in, group);
  return bytes;
}

OrderedJson forecast_json(const Forecast& f) {
  return {{"weights", f.memory}, {"by_kind", f.by_kind}, {"mapped", f.mapped}, {"copied", f.memory - f.mapped}};
}

OrderedJson as_json(const Inspection& in, const Options& options) {
  const ModelInfo& info = in.model->info();
  OrderedJson quantization = nullptr;
  if (const auto& q = in.checkpoint.quantization()) {
    quantization = {{"quant_method", q->quant_method}, {"modules_to_not_convert", q->modules_to_not_convert}};
  }
  OrderedJson groups = OrderedJson::array(), tensors = OrderedJson::array();
  for (const CacheGroup& g : in.groups) {
    groups.push_back({{"window", g.window}, {"layers", g.layers}, {"bytes_per_token", group_token_bytes(in, g)}});
  }
  for (const LoadedRow& row : (options.model.load.dequantize ? in.dequantized : in.native).rows) {
    std::vector<int64_t> shape;
    for (int i = 0; i < row.shape.rank(); ++i) shape.push_back(row.shape[i]);
    tensors.push_back({{"name", row.name},
                       {"shape", shape},
                       {"stored", row.stored},
                       {"in_memory", row.in_memory},
                       {"why", row.why},
                       {"file_bytes", row.file_bytes},
                       {"memory_bytes", row.memory_bytes},
                       {"mapped", row.mapped}});
  }
  return {{"model", options.model.model},
          {"architecture", info.architecture},
          {"parameters", in.parameters},
          {"context", in.context},
          {"dtype", dtype_name(in.dtype)},
          {"quantization_config", quantization},
          {"memory", {{"file", in.native.file}, {"native", forecast_json(in.native)}, {"dequantize", forecast_json(in.dequantized)}}},
          {"cache", {{"groups", groups}, {"bytes_at_context", context_bytes(in)}}},
          {"tensors", tensors},
          {"config", in.checkpoint.config()}};
}

std::string bytes(int64_t n) {
  if (n < 10'000'000) return fmt::format("{:.1f} kB", static_cast<double>(n) / 1e3);
  if (n < 10'000'000'000) return fmt::format("{:.1f} MB", static_cast<double>(n) / 1e6);
  return fmt::format("{:.2f} GB", static_cast<double>(n) / 1e9);
}

std::string count(int64_t n) {
  return n < 1'000'000'000 ? fmt::format("{:.1f} M", static_cast<double>(n) / 1e6)
                           : fmt::format("{:.2f} B", static_cast<double>(n) / 1e9);
}

std::string memory_line(const char* label, const Forecast& f) {
  std::string kinds;
  for (const auto& [kind, n] : f.by_kind) kinds += fmt::format("{}{} {}", kinds.empty() ? "" : " + ", kind, bytes(n));
  return fmt::format("  {:<14} {:>10}   {}; {} mapped from the files, {} copied\n", label, bytes(f.memory), kinds, bytes(f.mapped),
                     bytes(f.memory - f.mapped));
}

std::string cache_text(const Inspection& in) {
  std::string text = "cache\n";
  for (const CacheGroup& g : in.groups) {
    std::string keeps = g.window > 0 ? fmt::format("keep the last {} tokens", g.window) : "keep every token";
    text += fmt::format("  {} layers {}, {} a token\n", g.layers.size(), keeps, bytes(group_token_bytes(in, g)));
  }
  return text + fmt::format("  {} for a sequence that fills the context of {} tokens\n", bytes(context_bytes(in)), in.context);
}

std::string as_text(const Inspection& in, const Options& options) {
  const ModelInfo& info = in.model->info();
  std::string text = fmt::format("{}\n  {}, {} parameters, {} layers, hidden size {}, vocabulary {}\n", options.model.model,
                                 info.architecture, count(in.parameters), info.num_hidden_layers, info.hidden_size, info.vocab_size);
  text += fmt::format("  context {} tokens, activations in {}\n", in.context, dtype_name(in.dtype));
  if (const auto& q = in.checkpoint.quantization()) {
    text += fmt::format("quantization_config\n  quant_method {}\n  modules_to_not_convert {}\n", q->quant_method,
                        fmt::join(q->modules_to_not_convert, ", "));
  } else {
    text += "quantization_config\n  none\n";
  }
  text += fmt::format("weights\n  {:<14} {:>10}\n", "in the files", bytes(in.native.file));
  text += memory_line("in memory", in.native);
  text += memory_line("--dequantize", in.dequantized);
  text += cache_text(in);
  if (!options.tensors) return text;
  text += "tensors (shape, in the file, in memory)\n";
  for (const LoadedRow& row : (options.model.load.dequantize ? in.dequantized : in.native).rows) {
    text += fmt::format("  {:<56} {} {} {}, {} {}{}{}\n", row.name, row.shape.str(), row.stored, bytes(row.file_bytes), row.in_memory,
                        bytes(row.memory_bytes), row.why.empty() ? "" : ": ", row.why);
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
  app.footer(kExamples);
  if (!parse(app, call)) return 0;
  Inspection in = inspect(options.model);
  if (call.json) {
    call.out.json(as_json(in, options));
  } else {
    call.out.text(printable(as_text(in, options)));
  }
  return 0;
}

}  // namespace tessera::cli
