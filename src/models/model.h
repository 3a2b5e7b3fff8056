// A model: its weights as rows, its cache, its forward pass. One file an architecture, one row in registry.cc.
// Immutable after loading; forward may then run from one engine thread.
#pragma once

#include <string>

#include "cache/cache_spec.h"
#include "layers/step.h"
#include "parallel/weight_plan.h"

namespace tessera {

// What everyone above may ask of any model.
struct ModelInfo {
  std::string architecture;  // as config.json's "architectures"
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t max_position_embeddings = 0;
  int64_t experts_per_token = 0;  // A; 0: a dense model
};

class Model {
 public:
  explicit Model(ModelInfo info) : info_(std::move(info)) {}
  virtual ~Model() = default;
  Model(const Model&) = delete;

  const ModelInfo& info() const { return info_; }

  // Adds a row for every weight. The rows point into this object.
  virtual void declare(WeightPlan& plan) = 0;
  virtual CacheSpec cache() const = 0;
  // Runs the step's tokens, fills the cache and sets step.logits.
  virtual void forward(Step& step) const = 0;

 private:
  ModelInfo info_;
};

}  // namespace tessera
