// Qwen3 dense: norms on query and key heads; layers from max_window_layers on slide when use_sliding_window is set.
#include "models/decoder.h"
#include "models/registry.h"

namespace tessera {

std::unique_ptr<Model> make_qwen3(const Json& json) {
  DecoderConfig c = DecoderConfig::parse(json, "Qwen3ForCausalLM");
  c.head_norms = true;
  c.attention_output_bias = c.attention_bias;
  c.mlp_bias = false;
  ConfigReader r(json);
  if (!r.has("layer_types") && r.boolean_or("use_sliding_window", false) && r.has("sliding_window")) {
    const int64_t first = r.integer_or("max_window_layers", 28);
    for (int64_t i = first; i < c.num_hidden_layers; ++i)
      c.windows[static_cast<size_t>(i)] = r.integer("sliding_window");
  }
  return make_decoder(std::move(c));
}

}  // namespace tessera
