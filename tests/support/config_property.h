// What must hold for any bytes given as config.json: a model whose rows can be listed, or an Error of one line.
#pragma once

#include <string>
#include <string_view>

#include "core/error.h"
#include "loading/checkpoint_tensors.h"
#include "loading/strict_json.h"
#include "models/registry.h"

namespace tessera {

// Returns what went wrong, or nothing. Other exceptions than Error leave it, for the caller to report.
inline std::string check_config(std::string_view bytes) {
  try {
    Json config = parse_strict_json(bytes, "config.json");
    if (!config.is_object()) return "";
    std::optional<QuantizationConfig> quantization = parse_quantization_config(config, "config.json");
    std::unique_ptr<Model> model = make_model(config);
    WeightPlan plan;
    model->declare(plan);
    if (model->cache().layers.size() != static_cast<size_t>(model->info().num_hidden_layers)) return "cache layers";
    for (const CheckpointTensor& t : checkpoint_tensors(plan, quantization))
      for (int i = 0; i < t.shape.rank(); ++i)
        if (t.shape[i] <= 0) return t.name + " has shape " + t.shape.str();
    return "";
  } catch (const Error& e) {
    return std::string_view(e.what()).find('\n') != std::string_view::npos ? "a message of several lines" : "";
  }
}

}  // namespace tessera
