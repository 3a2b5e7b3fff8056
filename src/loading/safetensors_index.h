// All weights of a model folder: model.safetensors, or model.safetensors.index.json and the shards it names. The index
// and the shards' headers must say the same: every tensor in exactly one shard, the one that the index gives.
//
// Immutable after open; reading from many threads is safe.
#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "loading/safetensors.h"

namespace tessera {

// model.safetensors.index.json.
struct SafetensorsIndex {
  std::map<std::string, std::string> weight_map;  // tensor -> shard file name, a plain name ending in .safetensors
  std::optional<int64_t> total_size;              // bytes of all tensors
};

constexpr const char* kSingleFileName = "model.safetensors";
constexpr const char* kIndexName = "model.safetensors.index.json";

// `where` opens every message. Throws kCorrupt; shard names that leave the folder are refused.
SafetensorsIndex parse_safetensors_index(std::string_view json, const std::string& where);

class SafetensorsSet {
 public:
  // Throws kNotFound, kIo, kCorrupt, kUnsupported. A folder whose download stopped half-way is told so.
  static SafetensorsSet open(const std::string& folder);

  std::span<const SafetensorsFile> files() const { return files_; }
  // The tensor's mapped bytes (see SafetensorsFile::view); nothing when absent.
  std::optional<Tensor> find(std::string_view name) const;
  // Index of the file that holds the tensor, for reports; -1 when absent.
  int file_of(std::string_view name) const;
  int64_t total_bytes() const;
  // Harmless disagreements, one line each: an index whose total_size is wrong (some published ones are).
  const std::vector<std::string>& notes() const { return notes_; }
  // Throws kCorrupt when a file changed since open.
  void check_unchanged() const;

 private:
  struct Place {
    int file;
    const TensorInfo* info;  // inside files_[file]
  };
  void add_file(SafetensorsFile file);
  void check_index(const SafetensorsIndex& index, const std::string& where);

  std::vector<SafetensorsFile> files_;
  std::unordered_map<std::string_view, Place> places_;  // keys live in the files' TensorInfo
  std::vector<std::string> notes_;
};

}  // namespace tessera
