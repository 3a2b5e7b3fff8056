// Llama 2, 3, 3.1 and their relatives. attention_bias puts a bias on all four projections.
#include "models/decoder.h"
#include "models/registry.h"

namespace tessera {

std::unique_ptr<Model> make_llama(const Json& json) {
  DecoderConfig c = DecoderConfig::parse(json, "LlamaForCausalLM");
  c.attention_output_bias = c.attention_bias;
  return make_decoder(std::move(c));
}

}  // namespace tessera
