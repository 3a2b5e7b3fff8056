// Random checkpoints of any config.json that the program knows: exact published names, shapes, types and sizes, values
// that keep activations sane. The names and shapes are the model's own weight rows. The bytes depend on the seed, the
// tensor's name and the config only: not on the number of threads, the shards or the layers beside them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/json.h"
#include "loading/safetensors_writer.h"

namespace tessera {

// How the experts of a model with quantizable weights are stored.
enum class ExpertStorage : uint8_t { kAsConfig, kMxfp4, kPlain };

struct RandomCheckpointOptions {
  std::string config;  // path of config.json
  std::string out;     // folder, absent or empty
  uint64_t seed = 0;
  int64_t layers = 0;          // 0: as the config says
  std::optional<DType> dtype;  // of plain weights; absent: as the config says, else BF16
  ExpertStorage experts = ExpertStorage::kAsConfig;
  int64_t max_shard_bytes = 0;                 // 0: as the published index beside the config, else 5 GB
  std::vector<std::string> tokenizer_folders;  // tokenizer and template files are copied from the first that has them
};

// What will be written; kept apart from writing so that sizes can be checked without 13 GB.
struct RandomCheckpointPlan {
  Json config;  // as it will be written
  std::vector<TensorSpec> tensors;
  std::vector<int> fills;  // of tensors: an internal choice of distribution
  WriteSettings settings;
  int64_t total_bytes() const;
};

// Throws Error for a config the program does not know.
RandomCheckpointPlan plan_random_checkpoint(const RandomCheckpointOptions& options);

// Writes the folder; nothing is left after an error. Throws kIo when the disk has no room, before writing.
void write_random_checkpoint(const RandomCheckpointPlan& plan, const RandomCheckpointOptions& options,
                             ThreadPool& pool);

}  // namespace tessera
