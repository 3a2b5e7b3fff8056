#include "models/registry.h"

#include "core/error.h"

namespace tessera {

namespace {
constexpr ModelRow kRows[] = {
    {"GptOssForCausalLM", "gpt_oss", make_gpt_oss},       {"LlamaForCausalLM", "llama", make_llama},
    {"MistralForCausalLM", "mistral", make_mistral},      {"Qwen3ForCausalLM", "qwen3", make_qwen3},
    {"Qwen3MoeForCausalLM", "qwen3_moe", make_qwen3_moe},
};
}  // namespace

std::span<const ModelRow> model_rows() {
  return kRows;
}

std::unique_ptr<Model> make_model(const Json& config) {
  if (!config.is_object()) fail(ErrorCode::kCorrupt, "config.json: expected an object");
  std::string wanted;
  auto architectures = config.find("architectures");
  if (architectures != config.end() && architectures->is_array() && !architectures->empty() &&
      (*architectures)[0].is_string()) {
    wanted = (*architectures)[0].get<std::string>();
    for (const ModelRow& row : kRows)
      if (wanted == row.architecture) return row.make(config);
  } else if (config.contains("model_type") && config["model_type"].is_string()) {
    wanted = config["model_type"].get<std::string>();
    for (const ModelRow& row : kRows)
      if (wanted == row.model_type) return row.make(config);
  } else {
    fail(ErrorCode::kCorrupt, "config.json: neither \"architectures\" nor \"model_type\" names the model");
  }
  std::string known;
  for (const ModelRow& row : kRows) known += (known.empty() ? "" : ", ") + std::string(row.architecture);
  fail(ErrorCode::kUnsupported, "config.json: architecture \"{}\" is not supported; supported: {}",
       wanted.substr(0, 80), known);
}

}  // namespace tessera
