// A Hugging Face model folder: config.json, generation_config.json, one model.safetensors or several with
// model.safetensors.index.json. Files are memory-mapped; loading binds a model's weight rows to them.
//
// Const members are safe from many threads. The mapped files must not be changed or truncated while the Checkpoint
// lives: load() notices it where it can (see SafetensorsFile), later it cannot be noticed.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/json.h"
#include "core/thread_pool.h"
#include "loading/load_progress.h"
#include "loading/quantization_config.h"
#include "loading/safetensors_index.h"
#include "parallel/sharding.h"

namespace tessera {

struct LoadSettings {
  // Type of plain weights in memory: kF32, kBF16, kF16. Conversion happens only where it changes values: a bf16 tensor
  // asked for as float32 keeps its bytes, since every value is the same. Vectors (norms, biases, sinks) are rounded to
  // this type where it changes values, and then always held as F32.
  DType dtype = DType::kBF16;
  // Expand MXFP4 experts to bf16, which is exact, whatever dtype says.
  bool dequantize = false;
  // Only this rank's part of every weight; the shapes of targets are its. Null: all. Aliases get their rows of what
  // they share.
  const Mesh* mesh = nullptr;
  int rank = 0;
  // For a device: weights (not vectors) that are no contiguous piece of a file are not made in memory: they get
  // addresses that must not be touched, and read() makes them piece by piece. MXFP4 stays so even with `dequantize`:
  // the device expands it.
  bool deferred = false;
  // Folder of files with weights as load() arranges them (see ArrangedCache), which saves making them the next time;
  // empty: none. Not used with `deferred`.
  std::string arranged_cache = {};
  // Told how much load() has brought into memory; of what is deferred, nothing.
  LoadProgressCallback on_progress = {};
};

// One row of the memory account, for `inspect`.
struct LoadedRow {
  std::string name;
  Shape shape;
  std::string stored;     // dtype or "MXFP4" in the checkpoint
  std::string in_memory;  // dtype or "MXFP4" in memory
  std::string why;        // when it is not simply the file's own bytes, or not the type asked for; else empty
  int64_t file_bytes = 0;
  int64_t memory_bytes = 0;
  bool mapped = false;  // bytes are the file's own pages
};

// The type that config.json gives for plain weights ("dtype" or "torch_dtype"); BF16 when it names none.
DType config_dtype(const Json& config);

class Checkpoint {
 public:
  // Opens and checks the folder: every file's header is read and validated. Throws kNotFound, kCorrupt, kUnsupported.
  static Checkpoint open(const std::string& folder);

  // What config.json alone says; `path` is that file or its folder. Such a Checkpoint has no tensors(): forecast()
  // takes every weight to be there, plain ones in config_dtype(), and load() must not be called.
  static Checkpoint from_config(const std::string& path);
  bool has_tensors() const;

  const std::string& folder() const;
  const Json& config() const;
  const Json& generation_config() const;  // empty object when absent
  const std::optional<QuantizationConfig>& quantization() const;
  const SafetensorsSet& tensors() const;

  // Checks every row against the files (missing, unexpected, wrong shape, wrong dtype: all named in one message), then
  // points the rows' targets at mapped bytes, or at converted copies in an arena sized beforehand. The Checkpoint must
  // outlive the targets. Scales of MXFP4 weights that are NaN are refused too (kCorrupt). Call once.
  std::vector<LoadedRow> load(const WeightPlan& plan, const LoadSettings& settings, ThreadPool& pool);

  // Makes in memory after all what load() deferred of these weights, which stay on the host. MXFP4 that a device would
  // have expanded stays MXFP4, which is the same values. By one thread, before anybody reads them.
  void make_deferred(std::span<Weight* const> weights, ThreadPool& pool);

  // Copies bytes of a loaded tensor, whole elements; makes them where they were deferred. Those that are the file's own
  // come by a read call: many threads that fault pages in are slower, and a file that was cut meanwhile is an error
  // (kCorrupt, kIo) instead of a signal.
  void read(const void* source, int64_t bytes, char* to) const;

  // The same account without touching tensor data.
  std::vector<LoadedRow> forecast(const WeightPlan& plan, const LoadSettings& settings) const;

  // Gives the rows' targets their shapes, at addresses that must not be touched: a forward pass can be measured then.
  void bind_shapes(const WeightPlan& plan, const LoadSettings& settings);

  Checkpoint(Checkpoint&&) noexcept;
  Checkpoint& operator=(Checkpoint&&) noexcept;
  ~Checkpoint();

 private:
  Checkpoint();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tessera
