// From a model's weight rows to the tensors of its checkpoint. Validation, loading, the memory forecast and tools that
// write checkpoints all read this list, so names and shapes are written once, in the model.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "loading/quantization_config.h"
#include "loading/safetensors_index.h"
#include "parallel/weight_plan.h"

namespace tessera {

enum class TensorRole : uint8_t {
  kPlain,   // F32, BF16 or F16
  kBlocks,  // U8 [E, n, k/32, 16]: MXFP4 values
  kScales,  // U8 [E, n, k/32]: MXFP4 scales
};

struct CheckpointTensor {
  std::string name;
  Shape shape;
  TensorRole role = TensorRole::kPlain;
  size_t row = 0;  // index in plan.rows()
};

// Whether the row is stored as MXFP4 under this quantization_config.
bool is_stored_mxfp4(const WeightRow& row, const std::optional<QuantizationConfig>& quantization);

// Every tensor that the checkpoint must hold, in the order of the rows; a row's tensors stay together (blocks before
// scales; experts in order, each with its members in order). Throws kUnsupported when an MXFP4 row's k is no multiple
// of 32 or there would be more than a million tensors, kCorrupt when sizes overflow.
std::vector<CheckpointTensor> checkpoint_tensors(const WeightPlan& plan,
                                                 const std::optional<QuantizationConfig>& quantization);

// Throws kCorrupt with everything that does not fit in one message: missing, unexpected, wrong shape, wrong dtype.
// Accepted though no row asks for them: the tensor of a kAlias row, and rotary_emb.inv_freq buffers of old checkpoints.
void check_tensors(const WeightPlan& plan, const std::vector<CheckpointTensor>& expected, const SafetensorsSet& found,
                   const std::string& folder);

}  // namespace tessera
