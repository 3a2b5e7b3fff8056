#include "api/describe.h"

#include "core/error.h"

namespace tessera {

DType resolve_dtype(const std::string& name, const Json& config) {
  if (name == "auto") return config_dtype(config);
  std::optional<DType> type = dtype_from_config(name);
  if (type == DType::kF32 || type == DType::kBF16 || type == DType::kF16) return *type;
  fail(ErrorCode::kInvalidArgument, "dtype \"{}\" is not one of auto, float32, bfloat16, float16", name);
}

std::optional<DType> resolve_cache_dtype(const std::string& name) {
  if (name == "auto") return std::nullopt;
  if (name == "fp8") return DType::kF8E4M3;
  fail(ErrorCode::kInvalidArgument, "cache_dtype \"{}\" is not one of auto, fp8", name);
}

namespace {

// The account's headings: what a tensor's name says it is for.
const char* weight_kind(const std::string& name) {
  auto has = [&](const char* part) { return name.find(part) != std::string::npos; };
  if (has("mlp.experts")) return "experts";
  if (has("router") || has("mlp.gate.")) return "router";
  if (has("self_attn")) return has("norm") ? "norms" : "attention";
  if (has("norm")) return "norms";
  if (has("embed_tokens")) return "embedding";
  if (has("lm_head")) return "unembedding";
  return "mlp";
}

}  // namespace

Json describe_model(const Checkpoint& checkpoint, const Model& model, const std::vector<LoadedRow>& rows, DType dtype,
                    bool ignore_window, std::optional<DType> cache_dtype) {
  const ModelInfo& info = model.info();
  Json out;
  out["folder"] = checkpoint.folder();
  out["weight_files_read"] = checkpoint.has_tensors();
  out["architecture"] = info.architecture;
  out["dtype"] = dtype_name(dtype);
  out["vocab_size"] = info.vocab_size;
  out["hidden_size"] = info.hidden_size;
  out["num_hidden_layers"] = info.num_hidden_layers;
  out["max_position_embeddings"] = info.max_position_embeddings;
  out["config"] = checkpoint.config();
  out["quantization_config"] = nullptr;
  if (checkpoint.quantization()) {
    out["quantization_config"] = {{"quant_method", checkpoint.quantization()->quant_method},
                                  {"modules_to_not_convert", checkpoint.quantization()->modules_to_not_convert}};
  }
  Json kinds = Json::object(), tensors = Json::array();
  int64_t parameters = 0, file_bytes = 0, memory_bytes = 0, mapped_bytes = 0;
  for (const LoadedRow& row : rows) {
    const int64_t numel = row.file_bytes > 0 ? row.shape.numel() : 0;  // a tied weight is counted where it is stored
    parameters += numel;
    file_bytes += row.file_bytes;
    memory_bytes += row.memory_bytes;
    if (row.mapped) mapped_bytes += row.memory_bytes;
    Json& kind = kinds[weight_kind(row.name)];
    if (kind.is_null()) kind = Json::object();
    kind["parameters"] = kind.value("parameters", int64_t{0}) + numel;
    kind["memory_bytes"] = kind.value("memory_bytes", int64_t{0}) + row.memory_bytes;
    Json shape = Json::array();
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
  out["parameters"] = parameters;
  out["file_bytes"] = file_bytes;
  out["memory"] = {{"weight_bytes", memory_bytes}, {"mapped_bytes", mapped_bytes}, {"by_kind", kinds}};
  int64_t growing = 0, fixed = 0;
  const CacheSpec spec = model.cache();
  for (const LayerCache& layer : spec.layers) {
    int64_t bytes = token_bytes(layer, dtype_size(cache_dtype.value_or(dtype)));
    if (layer.window == 0 || ignore_window) {
      growing += bytes;
    } else {
      fixed += bytes * (layer.window - 1);
    }
  }
  out["cache"] = {{"bytes_per_token", growing}, {"window_bytes_per_sequence", fixed}};
  out["tensors"] = std::move(tensors);
  return out;
}

Json describe_kernel_table(const Kernels& kernels) {
  Json out = Json::array();
  kernels.for_each([&](const auto& table) {
    Json rows = Json::array();
    for (const auto& row : table.rows) {
      rows.push_back(
          {{"name", row.name}, {"device", row.device == DeviceType::kCpu ? "cpu" : "cuda"}, {"summary", row.summary}});
    }
    out.push_back({{"op", table.op}, {"rows", std::move(rows)}});
  });
  return out;
}

}  // namespace tessera
