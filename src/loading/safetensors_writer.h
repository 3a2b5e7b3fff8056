// Writes a model's weights as published: model.safetensors, or shards with model.safetensors.index.json. All or
// nothing: bytes go to temporary files, which take their names in finish(), the index last; without finish() the
// destructor removes them. A full disk is a kIo error, found before the first byte where the file system tells.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "core/tensor.h"
#include "core/thread_pool.h"

namespace tessera {

struct TensorSpec {
  std::string name;
  DType dtype = DType::kBF16;
  Shape shape;

  int64_t bytes() const { return shape.numel() * dtype_size(dtype); }
};

struct WriteSettings {
  int64_t max_shard_bytes = 5'000'000'000;  // of tensor data a file; a larger tensor gets a file of its own
  // File of every tensor, when it is to be as somewhere else; max_shard_bytes is then unused.
  std::map<std::string, std::string> shard_of;
  std::map<std::string, std::string> metadata = {{"format", "pt"}};
  bool durable = true;  // flush to the device before the files take their names
};

class CheckpointWriter {
 public:
  // Plans the shards and creates the temporary files at full size; creates the folder when absent. Tensors fill shards
  // in the order given; within a file wider types come first, so that every tensor is aligned. Throws kInvalidArgument
  // (repeated name, folder already has weights), kIo.
  CheckpointWriter(const std::string& folder, std::vector<TensorSpec> tensors, WriteSettings settings = {});
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  const std::vector<TensorSpec>& tensors() const { return tensors_; }
  int64_t total_bytes() const { return total_bytes_; }

  // Bytes [begin, begin + bytes) of tensors()[tensor]. Every byte must be written once; from any thread. Throws kIo.
  void write(size_t tensor, int64_t begin, const void* data, int64_t bytes);
  // Names the files. Throws kIo. Call once, after all writes.
  void finish();

 private:
  struct Shard {
    std::string name, temporary;  // file name; whole path
    int fd = -1;
    int64_t data_begin = 0;  // of the data part in the file
    int64_t data_bytes = 0;
    std::vector<size_t> tensors;
    bool named = false;
  };
  struct Place {
    size_t shard = 0;
    int64_t begin = 0;  // bytes from the start of the shard's data
  };
  void plan_shards(const WriteSettings& settings);
  void create(Shard& shard, const std::map<std::string, std::string>& metadata);
  void discard() noexcept;
  std::string path(const std::string& name) const { return folder_ + "/" + name; }
  std::string index_json() const;

  std::string folder_;
  std::vector<TensorSpec> tensors_;
  std::vector<Place> places_;  // of tensors_
  std::vector<Shard> shards_;
  int64_t total_bytes_ = 0;
  bool single_ = false;
  bool durable_ = true;
  bool finished_ = false;
  bool made_folder_ = false;
};

// The tensor's bytes, written by all threads.
void write_tensor(CheckpointWriter& writer, size_t tensor, const Tensor& values, ThreadPool& pool);

// Writes tensors that are in memory.
void save_checkpoint(const std::string& folder, const std::vector<std::pair<std::string, Tensor>>& tensors,
                     const WriteSettings& settings, ThreadPool& pool);

}  // namespace tessera
