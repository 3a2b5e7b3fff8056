// Runner: a model with its cache memory, scratch and kernels on one device; turns "these tokens of these sequences"
// into logits. All memory is sized and taken in the constructor; a step allocates none. Used by one thread.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "cache/cache_spec.h"
#include "cache/paged_cache.h"
#include "engine/device_sampling.h"
#include "engine/page_swap.h"
#include "engine/rank_links.h"
#include "engine/step_shape.h"
#include "models/model.h"

namespace tessera {

struct RunnerOptions {
  DType dtype = DType::kBF16;        // activations
  std::optional<DType> cache_dtype;  // keys and values; none: the same
  int64_t max_context = 4096;        // tokens a sequence may have
  int64_t max_sequences = 1;
  int64_t max_batch_tokens = 512;  // tokens in one step
  int64_t max_logit_rows = 128;    // rows of logits in one step
  int64_t page_size = 0;           // 0: default_page_size()
  bool ignore_window = false;
  int64_t cache_bytes = 0;   // of all pages; 0: enough for max_sequences, as far as what is left goes
  bool fit_context = false;  // cut max_context to what is left, rather than fail
  int64_t swap_bytes = 0;    // main memory for sequences that are swapped out
  int64_t mapped_bytes = 0;  // weights that lie in file pages, which a system counts as free memory
  bool prefix_cache = true;
  int64_t checkpoint_tokens = 4096;  // see CacheOptions
  bool deterministic = false;        // the kernels are those without rows that vary

  DType cache_type() const { return cache_dtype.value_or(dtype); }
};

using Sequence = CacheSequence;

enum class WantLogits : uint8_t { kNone, kLast, kAll };

struct RunItem {
  Sequence* sequence = nullptr;
  // Appended to the sequence. awaited(r) stands for the token that sample() chooses from row r of the step before.
  std::span<const int32_t> tokens;
  WantLogits want = WantLogits::kLast;
};

struct RunnerMemory {
  int64_t cache_bytes = 0;    // of all pages; on a CPU they are touched when first used
  int64_t scratch_bytes = 0;  // activations and kernel workspace
  int64_t swap_bytes = 0;
};

constexpr int32_t awaited(int64_t row) {
  return static_cast<int32_t>(-1 - row);
}

class Runner {
 public:
  // Throws kOutOfMemory or kInvalidArgument. The model's weights are on the context's device. All must outlive the
  // runner. With links the other ranks make theirs, and rank 0's is the one to call.
  Runner(const Model& model, const Kernels& kernels, ThreadPool& pool, DeviceContext& context,
         const RunnerOptions& options, RankLinks* links = nullptr);
  ~Runner();

  // Runs a prompt and records the decode steps of all sizes, so that no request waits for that; about a second on a
  // GPU. REQUIRES: no sequence is open.
  void warm_up();

  // In one cache after another, where there are several.
  std::unique_ptr<Sequence> open() { return caches_[opened_++ % caches_.size()]->open(); }

  // Starts one step whose tokens were reserved in their caches; makes the caches' pending copies first. On a GPU it
  // returns while the device works. REQUIRES: the options' limits hold, token ids are in [0, V) (or awaited, if
  // leads_on()), at least one token, and all steps were finished, or all but the last, which was sampled.
  // `candidates`: where ranks split the vocabulary, only the best so many logits of each row are asked for and the
  // others may be -inf; 0: all. kInParts: none are put together, sample() will do.
  void launch(std::span<const RunItem> items, const Probe* probe = nullptr, int64_t candidates = 0);
  // Whether the next step may take tokens that the last one's sampling chooses, before they are known here.
  bool leads_on() const { return asynchronous() && groups() == 1 && (!links_ || in_parts()); }
  // Of a rank other than 0: the same step, from rank 0's message.
  void repeat(const Order& order, std::string_view rest);
  // Whether this rank keeps its columns of the step's logits, to be sampled from.
  bool in_parts() const { return parts_.defined(); }
  // And what rank 0 has its rows sampled from.
  void repeat_sampling(std::string_view rest);
  // Has the device choose a token from each row of the step just launched, one entry a row. REQUIRES: asynchronous(),
  // and at most DeviceSampling::kMaxEdits edits.
  void sample(std::span<const RowSampling> rows);
  // Waits for the step. Logits F32 [R, V], items' rows in order, or what was sampled from them, in host memory; valid
  // until the next launch. The caller commits.
  Tensor finish();
  SampledRows finish_sampled();
  // Waits for the step before the last, which was sampled. Valid until the next launch.
  SampledRows finish_before();
  // True when launch() returns before the work is done.
  bool asynchronous() const { return staging_ != nullptr; }
  // Reserves, runs, commits. nullopt, and nothing stored, when the cache has too few pages.
  std::optional<Tensor> run(std::span<const RunItem> items, const Probe* probe = nullptr);

  // Which kernels a step of this size would use, and why; nothing runs.
  std::vector<KernelChoice> explain(int64_t tokens, int64_t sequences);

  const RunnerOptions& options() const { return options_; }
  const RunnerMemory& memory() const { return memory_; }
  const CacheLayout& layout() const { return layout_; }
  // One, or that of each group of ranks which has sequences of its own.
  std::vector<PagedCache*> caches() const;
  PagedCache& cache() { return *caches_[0]; }
  ThreadPool& thread_pool() { return thread_pool_; }
  int64_t vocab_size() const { return model_.info().vocab_size; }
  int64_t page_bytes() const { return layout_.page_bytes(options_.page_size, dtype_size(options_.cache_type())); }

 private:
  void prepare();
  void give_up() noexcept;
  int64_t count_pages();
  int64_t memory_left() const;
  void describe_pages(Arena& arena, int64_t pages);
  void allocate_cache();
  void measure();
  // What a group of ranks does in a step.
  struct Part {
    StepShape shape;
    std::vector<RunItem> items;
    std::vector<PageCopy> copies;
  };
  size_t groups() const { return links_ ? static_cast<size_t>(links_->groups()) : 1; }
  size_t group() const { return links_ ? static_cast<size_t>(links_->group()) : 0; }
  std::vector<Part> parts_of(std::span<const RunItem> items);
  bool shape_parts(std::vector<Part>& parts, bool recordable) const;
  StepShape recorded(const StepShape& shape) const;
  std::vector<Part> same_parts(const StepShape& shape) const;
  Step make_step(Arena& scratch, const std::vector<Part>& parts, size_t group);
  void fill(const Step& step, std::span<const RunItem> items, char* at);
  void fill_tables(const CacheGroup& group, size_t number, std::span<const RunItem> items);
  Step begin_step(const std::vector<Part>& parts, size_t group);
  Step tell_and_begin(const std::vector<Part>& parts, bool recordable, int64_t candidates);
  void send_inputs(const Step& step);
  void sample_parts(std::span<const SampleSettings> settings);
  SampledRows finish_sampled(int turn);
  void compute(Step& step, const StepShape& shape, bool recordable);
  void replay(Step& step, const StepShape& shape);
  LogitColumns own_columns() const;
  int32_t* host(const Tensor& input) const;
  Probe host_probe(const Probe& probe);

  const Model& model_;
  const Kernels& kernels_;
  ThreadPool& thread_pool_;
  DeviceContext& context_;
  RankLinks* links_;     // null: this rank alone
  int32_t number_ = 0;   // among the ranks' runners
  bool agreed_ = false;  // on the cache's size
  std::string message_;
  RunnerOptions options_;
  CacheSpec spec_;
  CacheLayout layout_;
  std::vector<std::unique_ptr<PagedCache>> caches_;  // of each group
  size_t opened_ = 0;
  Arena cache_arena_;
  std::vector<KvPages> stores_;
  std::unique_ptr<PageMover> mover_;
  Arena scratch_;
  int64_t workspace_bytes_ = 0;
  void* workspace_ = nullptr;  // the first part of scratch
  // A step's inputs (ids, positions, tables, ...) are the first thing in scratch; on a GPU the host writes them here.
  char* inputs_ = nullptr;
  char* staged_ = nullptr;                          // the last step's half of staging
  int64_t input_bytes_ = 0;                         // at most
  int64_t step_input_bytes_ = 0;                    // of the step at hand
  char* staging_ = nullptr;                         // pinned, twice input_bytes_; null on a CPU
  int turn_ = 0;                                    // which half is the last step's
  std::array<int64_t, 2> marks_{-1, -1};            // the ends of the steps that were staged there and sampled
  float* host_logits_ = nullptr;                    // pinned; null on a CPU
  std::unique_ptr<DeviceSampling> sampling_;        // null on a CPU
  std::vector<LayerCacheView> views_;               // one a layer; tables are set each step
  std::vector<int64_t> group_tokens_;               // of the step at hand, with groups
  std::vector<int32_t> row_order_;                  // likewise: where each item's logits lie
  char *fill_from_ = nullptr, *fill_at_ = nullptr;  // inputs of the step that is filled in, and where they are written
  RunnerMemory memory_;
  Tensor logits_;  // of the step that was launched last, on the device
  Tensor parts_;   // this rank's columns of them, when the ranks keep theirs; logits_ is not filled then

  // Decode steps of the shapes that came more than once, recorded.
  struct Recorded {
    int64_t uses = 0;
    std::unique_ptr<DeviceGraph> graph;
    Tensor logits;
    LogitParts parts;
  };
  std::map<std::pair<int64_t, int64_t>, Recorded> recorded_;  // by sequences and context
};

}  // namespace tessera
