#include "loading/quantization_config.h"

#include "core/error.h"
#include "loading/strict_json.h"

namespace tessera {

namespace {

// Whether `pattern`, in which '*' stands for anything, matches the name up to its end or up to a dot.
bool matches_module(std::string_view pattern, std::string_view name) {
  size_t p = 0, n = 0, star = pattern.npos, resume = 0;
  for (;;) {
    bool boundary = n == name.size() || name[n] == '.';
    if (p == pattern.size() && boundary) return true;
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      resume = n;
    } else if (p < pattern.size() && n < name.size() && pattern[p] == name[n]) {
      ++p, ++n;
    } else if (star != pattern.npos && resume < name.size()) {
      p = star + 1;
      n = ++resume;
    } else {
      return false;
    }
  }
}

}  // namespace

bool QuantizationConfig::converts(std::string_view name) const {
  for (const std::string& pattern : modules_to_not_convert)
    if (!pattern.empty() && matches_module(pattern, name)) return false;
  return true;
}

QuantizationConfig mxfp4_quantization() {
  return {"mxfp4", {"model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"}};
}

Json to_json(const QuantizationConfig& quantization) {
  return {{"quant_method", quantization.quant_method}, {"modules_to_not_convert", quantization.modules_to_not_convert}};
}

std::optional<QuantizationConfig> parse_quantization_config(const Json& config, const std::string& where) {
  auto it = config.find("quantization_config");
  if (it == config.end() || it->is_null()) return std::nullopt;
  if (!it->is_object() || !it->contains("quant_method") || !(*it)["quant_method"].is_string())
    fail(ErrorCode::kCorrupt, "{}: quantization_config is no object with a \"quant_method\" string", where);
  QuantizationConfig out;
  out.quant_method = (*it)["quant_method"].get<std::string>();
  if (out.quant_method != "mxfp4") {
    fail(ErrorCode::kUnsupported,
         "{}: quantization_config has quant_method \"{}\"; this program reads mxfp4 and unquantised weights", where,
         printable(out.quant_method));
  }
  auto modules = it->find("modules_to_not_convert");
  if (modules == it->end() || modules->is_null()) return out;
  if (!modules->is_array()) fail(ErrorCode::kCorrupt, "{}: modules_to_not_convert is no list of strings", where);
  for (const Json& module : *modules) {
    if (!module.is_string()) fail(ErrorCode::kCorrupt, "{}: modules_to_not_convert is no list of strings", where);
    out.modules_to_not_convert.push_back(module.get<std::string>());
  }
  return out;
}

}  // namespace tessera
