// What stands behind Llm; shared with Chat. See llm.h for thread-safety.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "api/rank_team.h"
#include "core/thread_pool.h"
#include "engine/device_map.h"
#include "engine/engine.h"
#include "engine/host_experts.h"
#include "kernels/arrange.h"
#include "loading/checkpoint.h"
#include "models/model.h"
#include "tessera/llm.h"
#include "text/tokenizer.h"

namespace tessera {

struct Llm::Impl {
  Impl(const std::string& folder, const LoadOptions& options);
  WeightPlan load_weights(const LoadSettings& settings);
  ArrangeOptions arrangement() const;
  void expand_where_needed(const WeightPlan& plan);
  void check_dense() const;
  void move_weights(const WeightPlan& plan);
  bool places_experts() const;
  void place_experts(WeightPlan& plan);
  void make_host_experts(const WeightPlan& plan, const DeviceMap& map);
  RankLinks* links() { return team ? &team->links : nullptr; }

  // For one sequence at a time; made, with its cache, when first asked for. Throw kOutOfMemory.
  Runner& runner();
  Engine& engine();
  // The tokenizer, or kNotFound saying which file the folder lacks.
  const Tokenizer& text() const;
  // As Llm::generate; `on_token` sees every id first.
  using TokenCallback = std::function<void(int32_t id)>;
  Generation generate(const std::vector<int32_t>& prompt, const SamplingParams& params, const TextCallback& on_text,
                      const TokenCallback& on_token);

  LoadOptions options;
  ThreadPool pool;
  std::unique_ptr<DeviceContext> context;
  Mesh mesh;
  std::unique_ptr<RankTeam> team;  // null: one rank
  Checkpoint checkpoint;
  std::unique_ptr<Model> model;
  DType dtype;
  std::vector<LoadedRow> rows;
  Arena device_weights;  // empty on a CPU, where weights stay in the checkpoint's mapping
  Kernels kernels;
  DeviceMap device_map;                   // empty: everything is on the device
  std::unique_ptr<ThreadPool> host_pool;  // of the experts that stay on the host of a GPU
  std::unique_ptr<HostExperts> host_experts;
  std::optional<Tokenizer> tokenizer;
  std::vector<int32_t> eos_ids;
  RunnerOptions run_options;
  std::unique_ptr<Runner> own_runner;  // null until runner() is called
  std::unique_ptr<Engine> own_engine;
  std::atomic<bool> cancelled{false};
};

}  // namespace tessera
