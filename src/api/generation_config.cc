#include "api/generation_config.h"

#include "core/error.h"

namespace tessera {

namespace {

template <class T>
void read(const Json& config, const char* key, T& value) {
  auto it = config.find(key);
  if (it == config.end() || it->is_null()) return;
  if (!it->is_number())
    fail(ErrorCode::kCorrupt, "generation_config.json: \"{}\" is {}; expected a number", key, it->dump());
  value = it->get<T>();
}

}  // namespace

SamplingParams sampling_from_config(const Json& config) {
  SamplingParams params;
  if (!config.is_object()) return params;
  read(config, "temperature", params.temperature);
  read(config, "top_k", params.top_k);
  read(config, "top_p", params.top_p);
  read(config, "min_p", params.min_p);
  read(config, "repetition_penalty", params.repetition_penalty);
  auto do_sample = config.find("do_sample");
  if (do_sample != config.end() && do_sample->is_boolean() && !do_sample->get<bool>()) params.temperature = 0;
  return params;
}

std::vector<int32_t> eos_from_config(const Json& generation_config, const Json& config, int64_t vocab_size) {
  std::vector<int32_t> ids;
  for (const auto& [json, file] :
       {std::pair{&generation_config, "generation_config.json"}, std::pair{&config, "config.json"}}) {
    auto it = json->find("eos_token_id");
    if (it == json->end() || it->is_null()) continue;
    Json list = it->is_array() ? *it : Json::array({*it});
    for (const Json& id : list) {
      if (!id.is_number_integer() || id < 0 || id >= vocab_size) {
        fail(ErrorCode::kCorrupt, "{}: eos_token_id {} is not a token id from 0 to {}", file, id.dump(),
             vocab_size - 1);
      }
      ids.push_back(id.get<int32_t>());
    }
    return ids;
  }
  return ids;
}

}  // namespace tessera
