// An engine over the toy model, on the CPU or on a CPU that plays the GPU, for tests of the engine.
#pragma once

#include <memory>
#include <random>
#include <vector>

#include "engine/engine.h"
#include "engine/recording_context.h"
#include "engine/toy_model.h"

namespace tessera {

inline RunnerOptions small() {
  return {.dtype = DType::kF32,
          .max_context = 400,
          .max_sequences = 8,
          .max_batch_tokens = 64,
          .max_logit_rows = 32,
          .page_size = 8};
}

struct Machine {
  explicit Machine(RunnerOptions runner_options = small(), EngineOptions engine_options = {}, bool recording = false,
                   RankLinks* links = nullptr)
      : context(test_context(recording)),
        runner(model, kernels, pool, *context, runner_options, links),
        engine(runner, engine_options) {}

  void drain() {
    while (engine.step()) {
    }
  }
  // REQUIRES: recording.
  RecordingContext& gpu() { return static_cast<RecordingContext&>(*context); }

  ToyModel model;
  Kernels kernels = Kernels::reference();
  ThreadPool pool{1};
  std::shared_ptr<DeviceContext> context;
  Runner runner;
  Engine engine;
};

inline std::vector<int32_t> random_prompt(std::mt19937& random, int64_t longest) {
  // Few beginnings, so that prompts share pages.
  const auto length = static_cast<size_t>(1 + random() % longest);
  std::vector<int32_t> ids(length);
  const auto family = static_cast<int32_t>(random() % 3);
  for (size_t i = 0; i < length; ++i) ids[i] = (static_cast<int32_t>(i) * 7 + family) % 50;
  for (size_t i = length - std::min<size_t>(length, random() % 30); i < length; ++i)
    ids[i] = static_cast<int32_t>(random() % 50);
  return ids;
}

}  // namespace tessera
