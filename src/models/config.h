// Reads a model's config.json with errors that name the key, what was found and what was expected. Keys keep their
// published names.
#pragma once

#include <string>
#include <vector>

#include "core/json.h"
#include "layers/attention.h"

namespace tessera {

class ConfigReader {
 public:
  // The Json must outlive the reader.
  explicit ConfigReader(const Json& config) : config_(config) {}

  bool has(const char* key) const;  // present and not null
  // A whole number in [low, high]. Throws kCorrupt.
  int64_t integer(const char* key, int64_t low = 1, int64_t high = int64_t{1} << 31) const;
  int64_t integer_or(const char* key, int64_t fallback, int64_t low = 0, int64_t high = int64_t{1} << 31) const;
  double number(const char* key, double low, double high) const;
  double number_or(const char* key, double fallback, double low, double high) const;
  bool boolean_or(const char* key, bool fallback) const;
  std::string string_or(const char* key, const std::string& fallback) const;

  // Throws kUnsupported unless the activation is silu.
  void require_silu() const;
  // rope_theta and rope_scaling, or the newer rope_parameters that holds both.
  Rope rope(int64_t head_dim) const;
  // One entry a layer: sliding_window for "sliding_attention", 0 for "full_attention". Without layer_types, `fallback`
  // for every layer.
  std::vector<int64_t> windows(int64_t layers, int64_t fallback) const;

 private:
  const Json& config_;
};

// Throws kCorrupt unless kv heads divide query heads and the head size is even.
void check_attention_shape(int64_t heads, int64_t kv_heads, int64_t head_dim);

}  // namespace tessera
