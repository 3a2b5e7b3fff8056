// generation_config.json: sampling defaults and end tokens.
#pragma once

#include <vector>

#include "core/json.h"
#include "tessera/sampling.h"

namespace tessera {

// Keys as transformers writes them; absent ones keep SamplingParams' defaults, except that do_sample false means
// greedy. Throws kCorrupt naming the key.
SamplingParams sampling_from_config(const Json& generation_config);

// eos_token_id of generation_config.json, else of config.json: one id or a list. Throws kCorrupt.
std::vector<int32_t> eos_from_config(const Json& generation_config, const Json& config, int64_t vocab_size);

}  // namespace tessera
