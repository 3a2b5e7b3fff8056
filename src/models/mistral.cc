// Mistral 7B, Nemo, Small: Llama with a sliding window in every layer when the configuration names one, and no biases.
#include "models/decoder.h"
#include "models/registry.h"

namespace tessera {

std::unique_ptr<Model> make_mistral(const Json& json) {
  DecoderConfig c = DecoderConfig::parse(json, "MistralForCausalLM");
  c.attention_bias = c.mlp_bias = false;
  ConfigReader r(json);
  if (r.has("sliding_window")) c.windows = r.windows(c.num_hidden_layers, r.integer("sliding_window"));
  return make_decoder(std::move(c));
}

}  // namespace tessera
