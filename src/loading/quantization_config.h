// quantization_config of config.json: which weights of a checkpoint are stored as MXFP4.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"

namespace tessera {

struct QuantizationConfig {
  std::string quant_method;                         // "mxfp4"
  std::vector<std::string> modules_to_not_convert;  // module names; '*' stands for anything

  // False when the module, or one around it, is excepted. Names end at dots: "lm_head" excepts "lm_head.weight".
  bool converts(std::string_view name) const;
};

// As published MXFP4 checkpoints of gpt-oss have it: everything but attention, routers, embeddings and head.
QuantizationConfig mxfp4_quantization();
Json to_json(const QuantizationConfig& quantization);

// Nothing when the config has no quantization_config, or null. `where` opens every message. Throws kUnsupported for
// another method, by its name, and kCorrupt for what is no quantization_config.
std::optional<QuantizationConfig> parse_quantization_config(const Json& config, const std::string& where);

}  // namespace tessera
