// Which kernel of the hub stands for a named layer of a model: by device, interval of capabilities and mode. Data and
// its resolution only; nothing is loaded or asked here. Pure.
//
// mapping.json:  {LAYER: {DEVICE: ROW | [ROW, ...]} | ROW}
//   ROW          {"repo": "ORG/NAME", "version": N | "revision": "REV", "layer": "NAME" (default: LAYER),
//                 "capability": [MIN, MAX] (cuda, rocm; inclusive, 90 is 9.0), "mode": "inference" | "training" |
//                 "fallback" (default)}
//                or "ORG/NAME[@REV][:NAME]", or ["ORG/NAME:NAME", {"version": N | "revision": "REV"}]
//   DEVICE       cpu, cuda, rocm, xpu, npu, mps, neuron, tpu; a ROW in its place is for every device
#pragma once

#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "hub/kernel_metadata.h"

namespace tessera::hub {

enum class KernelMode { kFallback, kInference, kTraining };
const char* mode_name(KernelMode mode);

struct MappingRow {
  std::string layer;   // what a model calls it: RMSNorm, rotary_pos_emb, ...
  std::string device;  // empty: every one
  int min_capability = 0, max_capability = std::numeric_limits<int>::max();
  KernelMode mode = KernelMode::kFallback;  // serves every mode that no other row serves
  KernelDependency kernel;
  std::string function;  // the kernel's own name for the layer or function

  bool has_interval() const { return max_capability != std::numeric_limits<int>::max(); }
  std::string text() const;  // "RMSNorm cuda 75-90 inference: ORG/NAME (version: 3) LigerRMSNorm"
};

struct KernelMapping {
  std::vector<MappingRow> rows;  // in the file's order
};

// Throws kCorrupt, `where` opening the message.
KernelMapping parse_kernel_mapping(std::string_view json, const std::string& where);
// Throws kNotFound, kIo, kCorrupt.
KernelMapping read_kernel_mapping(const std::string& path);
// The layers that transformers maps to kernels-community's repositories by default.
KernelMapping default_kernel_mapping();

struct MappingChoice {
  const MappingRow* row = nullptr;  // of the mapping
  std::string why;                  // when there is none
};

// The row for a layer. Rows of the device come before those of every device; the smallest interval that contains the
// capability wins, then within it the mode: inference takes inference, training or fallback rows in this order,
// training takes training or fallback. Of two equal rows the later one replaces the earlier. Capability 0 is in every
// interval.
MappingChoice choose_kernel(const KernelMapping& mapping, const std::string& layer, const std::string& device,
                            int capability, KernelMode mode);

// The line that is logged when a row is used: "Using layer `NAME` from repo `ORG/NAME`".
std::string using_line(const MappingRow& row);

// "ORG/NAME[@REV][:FUNCTION]", as attention implementations are named; the revision is main by default.
struct KernelString {
  KernelDependency kernel;
  std::string function;  // empty: not said
};
std::optional<KernelString> parse_kernel_string(std::string_view text);

}  // namespace tessera::hub
