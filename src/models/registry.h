// The table of model architectures.
#pragma once

#include <memory>
#include <span>

#include "core/json.h"
#include "models/model.h"

namespace tessera {

struct ModelRow {
  const char* architecture;  // entry of config.json's "architectures"
  const char* model_type;    // config.json's "model_type", used when "architectures" is absent
  std::unique_ptr<Model> (*make)(const Json& config);
};

std::span<const ModelRow> model_rows();

// Throws kUnsupported with the list of supported architectures, kCorrupt for a bad value.
std::unique_ptr<Model> make_model(const Json& config);

std::unique_ptr<Model> make_gpt_oss(const Json& config);
std::unique_ptr<Model> make_llama(const Json& config);
std::unique_ptr<Model> make_mistral(const Json& config);
std::unique_ptr<Model> make_qwen3(const Json& config);
std::unique_ptr<Model> make_qwen3_moe(const Json& config);

}  // namespace tessera
