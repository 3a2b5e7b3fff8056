// What loading does with every row of a plan: which part of which file's tensors it is, whether that is mapped or made,
// and what it costs. Nothing here reads tensors' bytes. Pure functions; RowWork views the plan and the files.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "loading/checkpoint.h"
#include "loading/deferred_rows.h"
#include "loading/prefetch.h"
#include "loading/row_form.h"

namespace tessera {

// How a row gets from the files to memory.
enum class Action { kMap, kCopy, kCast, kTranspose, kStack, kDequantize, kAlias, kNone };

struct RowWork {
  const WeightRow* row = nullptr;
  Action action = Action::kMap;
  RowSlice slice;                  // of the row, this rank's
  Shape shape;                     // of it, loaded
  std::vector<Tensor> sources;     // mapped; MXFP4: blocks, scales
  std::vector<Strided> parts;      // of the sources, where they need no transposing
  std::vector<std::string> names;  // of the sources
  bool mxfp4 = false;              // in memory, or until a device expands it
  bool expands = false;            // a device does so
  DType dtype = DType::kF32;       // in memory, of the copy or the map
  DType via = DType::kF32;         // vectors are rounded to this type first
  uint8_t max_scale = 255;
  LoadedRow account;

  bool made() const { return action != Action::kMap && action != Action::kAlias && action != Action::kNone; }
  // Vectors are needed on the host.
  bool deferred(const LoadSettings& settings) const { return settings.deferred && row->weight != nullptr; }
  // Of up to two tensors.
  int64_t room() const {
    const int64_t bytes = expands ? account.file_bytes : account.memory_bytes;
    return (bytes / DeferredRows::kAlign + 2) * DeferredRows::kAlign;
  }
};

// What a plan is held against.
struct RowSource {
  const std::string& folder;  // for messages
  const Json& config;
  const std::optional<QuantizationConfig>& quantization;
  const SafetensorsSet* tensors = nullptr;  // null: config.json alone, whose tensors get addresses not to be touched
};

// Checks the plan against the files and says what would happen to every row, in the plan's order.
std::vector<RowWork> plan_rows(const WeightPlan& plan, const LoadSettings& settings, const RowSource& from);

// The bytes of a mapped part of a tensor.
Tensor part_of(const Tensor& source, const Strided& part, Shape shape);

// Of a row that is made; `i` chooses the blocks or the scales of MXFP4 that is only copied.
RowForm form_of(const RowWork& work, size_t i);

// What of the files the rows need, those that are made among them or not.
std::vector<MappedRange> held_ranges(const std::vector<RowWork>& rows, bool made);

}  // namespace tessera
