#include "models/config.h"

#include <cmath>

#include "core/error.h"

namespace tessera {

namespace {

std::string shown(const Json& value) {
  std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  return text.size() > 60 ? text.substr(0, 60) + "..." : text;
}

RopeScaling read_scaling(const Json& json, const Json& config) {
  ConfigReader r(json);
  RopeScaling s;
  std::string type = r.string_or("rope_type", r.string_or("type", "default"));
  if (type == "default") return s;
  s.factor = r.number("factor", 1e-6, 1e6);
  if (type == "linear") {
    s.type = RopeScaling::Type::kLinear;
    return s;
  }
  // As transformers: the scaling's own value, else the model's longest context.
  ConfigReader whole(config);
  s.original_max_position_embeddings = r.has("original_max_position_embeddings")
                                           ? r.number("original_max_position_embeddings", 1, 1e9)
                                           : whole.number("max_position_embeddings", 1, 1e9);
  if (type == "llama3") {
    s.type = RopeScaling::Type::kLlama3;
    s.low_freq_factor = r.number("low_freq_factor", 1e-6, 1e6);
    s.high_freq_factor = r.number("high_freq_factor", 1e-6, 1e6);
    if (s.high_freq_factor <= s.low_freq_factor)
      fail(ErrorCode::kCorrupt, "config.json: rope_scaling.high_freq_factor must be larger than low_freq_factor");
  } else if (type == "yarn") {
    s.type = RopeScaling::Type::kYarn;
    s.beta_fast = r.number_or("beta_fast", 32, 1e-6, 1e6);
    s.beta_slow = r.number_or("beta_slow", 1, 1e-6, 1e6);
    s.truncate = r.boolean_or("truncate", true);
    s.attention_factor = r.number_or("attention_factor", 0, 0, 1e6);
    if (r.has("mscale") || r.has("mscale_all_dim"))
      fail(ErrorCode::kUnsupported,
           "config.json: rope_scaling with mscale is not supported; supported: yarn without it");
  } else {
    fail(ErrorCode::kUnsupported,
         "config.json: rope type \"{}\" is not supported; supported: default, linear, llama3, yarn", type);
  }
  return s;
}

}  // namespace

bool ConfigReader::has(const char* key) const {
  auto it = config_.find(key);
  return it != config_.end() && !it->is_null();
}

int64_t ConfigReader::integer(const char* key, int64_t low, int64_t high) const {
  if (!has(key)) fail(ErrorCode::kCorrupt, "config.json: \"{}\" is missing", key);
  const Json& value = config_[key];
  bool whole =
      value.is_number_integer() || (value.is_number_float() && std::floor(value.get<double>()) == value.get<double>());
  double d = whole ? value.get<double>() : 0;
  if (!whole || d < static_cast<double>(low) || d > static_cast<double>(high)) {
    fail(ErrorCode::kCorrupt, "config.json: \"{}\" is {}; expected a whole number from {} to {}", key, shown(value),
         low, high);
  }
  return static_cast<int64_t>(d);
}

int64_t ConfigReader::integer_or(const char* key, int64_t fallback, int64_t low, int64_t high) const {
  return has(key) ? integer(key, low, high) : fallback;
}

double ConfigReader::number(const char* key, double low, double high) const {
  if (!has(key)) fail(ErrorCode::kCorrupt, "config.json: \"{}\" is missing", key);
  const Json& value = config_[key];
  double d = value.is_number() ? value.get<double>() : std::nan("");
  if (!(d >= low && d <= high)) {
    fail(ErrorCode::kCorrupt, "config.json: \"{}\" is {}; expected a number from {} to {}", key, shown(value), low,
         high);
  }
  return d;
}

double ConfigReader::number_or(const char* key, double fallback, double low, double high) const {
  return has(key) ? number(key, low, high) : fallback;
}

bool ConfigReader::boolean_or(const char* key, bool fallback) const {
  if (!has(key)) return fallback;
  const Json& value = config_[key];
  if (!value.is_boolean())
    fail(ErrorCode::kCorrupt, "config.json: \"{}\" is {}; expected true or false", key, shown(value));
  return value.get<bool>();
}

std::string ConfigReader::string_or(const char* key, const std::string& fallback) const {
  if (!has(key)) return fallback;
  const Json& value = config_[key];
  if (!value.is_string()) fail(ErrorCode::kCorrupt, "config.json: \"{}\" is {}; expected a string", key, shown(value));
  return value.get<std::string>();
}

void ConfigReader::require_silu() const {
  std::string act = string_or("hidden_act", "silu");
  if (act != "silu")
    fail(ErrorCode::kUnsupported, "config.json: hidden_act \"{}\" is not supported; supported: silu", act);
}

Rope ConfigReader::rope(int64_t head_dim) const {
  const char* key = has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  const Json empty = Json::object();
  const Json& scaling = has(key) ? config_[key] : empty;
  if (!scaling.is_object())
    fail(ErrorCode::kCorrupt, "config.json: \"{}\" is {}; expected an object", key, shown(scaling));
  double theta = ConfigReader(scaling).has("rope_theta") ? ConfigReader(scaling).number("rope_theta", 1.001, 1e12)
                                                         : number_or("rope_theta", 10000.0, 1.001, 1e12);
  return make_rope(theta, head_dim, read_scaling(scaling, config_));
}

std::vector<int64_t> ConfigReader::windows(int64_t layers, int64_t fallback) const {
  std::vector<int64_t> windows(static_cast<size_t>(layers), fallback);
  if (!has("layer_types")) return windows;
  const Json& types = config_["layer_types"];
  if (!types.is_array() || types.size() != windows.size()) {
    fail(ErrorCode::kCorrupt, "config.json: \"layer_types\" must be a list of {} entries, one a layer", layers);
  }
  for (size_t i = 0; i < windows.size(); ++i) {
    if (types[i] == "full_attention") {
      windows[i] = 0;
    } else if (types[i] == "sliding_attention") {
      windows[i] = integer("sliding_window");
    } else {
      fail(ErrorCode::kUnsupported,
           "config.json: layer_types[{}] is {}; supported: \"full_attention\" and \"sliding_attention\"", i,
           shown(types[i]));
    }
  }
  return windows;
}

void check_attention_shape(int64_t heads, int64_t kv_heads, int64_t head_dim) {
  if (heads % kv_heads != 0 || head_dim % 2 != 0 || head_dim < 2 || head_dim > 4096) {
    fail(ErrorCode::kCorrupt,
         "config.json: {} attention heads, {} key/value heads and head size {} do not fit: key/value heads must divide "
         "attention heads and the head size must be even, from 2 to 4096",
         heads, kv_heads, head_dim);
  }
}

}  // namespace tessera
