// Runner: a model with its cache memory, scratch and kernels on one device; turns "these tokens of these sequences" into
// logits. All memory is sized and taken in the constructor; run() allocates nothing. Used by one thread.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "cache/cache_spec.h"
#include "cache/pages.h"
#include "models/model.h"

namespace tessera {

struct RunnerOptions {
  DType dtype = DType::kBF16;  // activations and cache
  int64_t max_context = 4096;  // tokens a sequence may have
  int64_t max_sequences = 1;
  int64_t max_batch_tokens = 512;  // tokens in one step
  int64_t max_logit_rows = 128;    // rows of logits in one step
  int64_t page_size = 32;
  bool ignore_window = false;
};

// The cache pages of one sequence. Made by Runner::open.
struct Sequence {
  std::vector<SequencePages> groups;
  int64_t length = 0;  // tokens stored
};

enum class WantLogits : uint8_t { kNone, kLast, kAll };

struct RunItem {
  Sequence* sequence = nullptr;
  std::span<const int32_t> tokens;  // appended to the sequence
  WantLogits want = WantLogits::kLast;
};

struct RunnerMemory {
  int64_t cache_bytes = 0;    // address space of the cache; pages are touched when first used
  int64_t scratch_bytes = 0;  // activations and kernel workspace
};

class Runner {
 public:
  // Throws kOutOfMemory or kInvalidArgument. model, kernels and pool must outlive the runner.
  Runner(const Model& model, const Kernels& kernels, ThreadPool& pool, const RunnerOptions& options);

  std::unique_ptr<Sequence> open();

  // One step. Logits F32 [R, V], items' rows in order; valid until the next run. nullopt, and nothing changed, when the
  // cache has too few pages. REQUIRES: limits of the options hold, and every token id is in [0, V).
  std::optional<Tensor> run(std::span<const RunItem> items, const Probe* probe = nullptr);

  const RunnerOptions& options() const { return options_; }
  const RunnerMemory& memory() const { return memory_; }
  const std::vector<CacheGroup>& groups() const { return groups_; }
  const PagePool& pool(size_t group) const { return *pools_[group]; }

 private:
  void allocate_cache();
  void measure();
  Step make_step(Arena& scratch, int64_t tokens, int64_t sequences, int64_t rows, std::span<const int64_t> table_widths);
  void fill(const Step& step, std::span<const RunItem> items);

  const Model& model_;
  const Kernels& kernels_;
  ThreadPool& thread_pool_;
  RunnerOptions options_;
  CacheSpec spec_;
  std::vector<CacheGroup> groups_;
  std::vector<std::unique_ptr<PagePool>> pools_;
  Arena cache_arena_;
  Arena scratch_;
  int64_t workspace_bytes_ = 0;
  std::vector<LayerCacheView> views_;  // one a layer; tables are set each step
  std::vector<int64_t> widths_;
  RunnerMemory memory_;
};

}  // namespace tessera
