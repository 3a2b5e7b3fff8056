#include "engine/runner.h"

#include <algorithm>

#include "core/error.h"
#include "core/host_memory.h"
#include "core/log.h"
#include "engine/cache_budget.h"

namespace tessera {

namespace {

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

void check_range(const char* name, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high)
    fail(ErrorCode::kInvalidArgument, "{} is {}; expected {} to {}", name, value, low, high);
}

std::vector<int64_t> windows_of(const CacheLayout& layout) {
  std::vector<int64_t> windows;
  for (const CacheGroup& group : layout.groups) windows.push_back(group.window);
  return windows;
}

}  // namespace

Runner::Runner(const Model& model, const Kernels& kernels, ThreadPool& pool, DeviceContext& context,
               const RunnerOptions& options)
    : model_(model), kernels_(kernels), thread_pool_(pool), context_(context), options_(options), spec_(model.cache()) {
  check_range("page size", options_.page_size, 1, 4096);
  check_range("context", options_.max_context, 1, int64_t{1} << 24);
  check_range("sequences at once", options_.max_sequences, 1, 65536);
  check_range("tokens in a step", options_.max_batch_tokens, 1, 65536);
  options_.max_batch_tokens = std::max(options_.max_batch_tokens, options_.max_sequences);
  options_.max_logit_rows = std::clamp(options_.max_logit_rows, options_.max_sequences, options_.max_batch_tokens);
  layout_ = layout_cache(spec_, options_.ignore_window);
  widths_.resize(layout_.groups.size());
  Arena shapes = Arena::measuring(context_.device());
  describe_pages(shapes, 1);
  measure();
  allocate_cache();
}

Runner::~Runner() {
  context_.release_host(staging_);
  context_.release_host(host_logits_);
}

// What the device has left after weights and scratch. A machine's main memory is shared with other programs, which get
// half of it; a GPU keeps a little for the driver's and libraries' own needs.
int64_t Runner::memory_left() const {
  if (context_.device().type == DeviceType::kCpu)
    return (available_memory() - options_.mapped_bytes - memory_.scratch_bytes) / 2;
  const DeviceInfo info = context_.info();
  return info.free_bytes - info.total_bytes / 16;
}

int64_t Runner::count_pages() {
  const CacheBudget budget = plan_cache(layout_, {.page_size = options_.page_size,
                                                  .page_bytes = page_bytes(),
                                                  .chunk = options_.max_batch_tokens,
                                                  .sequences = options_.max_sequences,
                                                  .max_context = options_.max_context,
                                                  .fit_context = options_.fit_context,
                                                  .stated_bytes = options_.cache_bytes,
                                                  .free_bytes = memory_left()});
  if (budget.max_context < options_.max_context)
    log::warn("the context is cut from {} to {} tokens: no more fit into memory", options_.max_context,
              budget.max_context);
  options_.max_context = budget.max_context;
  return std::min(budget.pages, INT32_MAX / options_.page_size);
}

void Runner::describe_pages(Arena& arena, int64_t pages) {
  stores_.clear();
  for (const LayerCache& c : layout_.stores) {
    Shape shape{pages, c.kv_heads, options_.page_size, c.head_dim};
    Tensor k = arena.tensor(options_.dtype, shape);
    stores_.push_back({k, arena.tensor(options_.dtype, shape)});
  }
  views_.resize(spec_.layers.size());
  for (size_t i = 0; i < views_.size(); ++i) views_[i].pages = stores_[static_cast<size_t>(layout_.store_of_layer[i])];
}

void Runner::allocate_cache() {
  const int64_t pages = count_pages();
  const auto host_pages =
      static_cast<int32_t>(std::min<int64_t>(options_.swap_bytes / page_bytes(), INT32_MAX / options_.page_size));
  cache_ = std::make_unique<PagedCache>(CacheOptions{.windows = windows_of(layout_),
                                                     .page_size = options_.page_size,
                                                     .pages = static_cast<int32_t>(pages),
                                                     .host_pages = host_pages,
                                                     .prefix_cache = options_.prefix_cache,
                                                     .checkpoint_tokens = options_.checkpoint_tokens});
  memory_.cache_bytes = pages * page_bytes();
  cache_arena_ = Arena(context_, memory_.cache_bytes + static_cast<int64_t>(layout_.stores.size()) * 512);
  describe_pages(cache_arena_, pages);
  mover_ = std::make_unique<PageMover>(context_, layout_, stores_, host_pages);
  memory_.swap_bytes = mover_->host_bytes();
}

// Runs the forward pass without launching anything, for the largest prefill and the largest decode step.
void Runner::measure() {
  const int64_t widest = ceil_div(options_.max_context, options_.page_size);
  std::fill(widths_.begin(), widths_.end(), widest);
  int64_t peak = 0;
  const std::pair<int64_t, int64_t> steps[] = {{options_.max_batch_tokens, 1},
                                               {options_.max_batch_tokens, options_.max_sequences}};
  for (auto [tokens, sequences] : steps) {
    Arena arena = Arena::measuring(context_.device());
    Step step = make_step(arena, tokens, sequences, std::min(tokens, options_.max_logit_rows), widths_);
    input_bytes_ = std::max(input_bytes_, arena.used());
    step.measure = true;
    step.max_queries = tokens;
    step.max_context = options_.max_context;
    model_.forward(step);
    peak = std::max(peak, arena.peak());
    workspace_bytes_ = std::max(workspace_bytes_, step.workspace_bytes);
  }
  workspace_bytes_ = ceil_div(workspace_bytes_, 256) * 256;
  memory_.scratch_bytes = peak + workspace_bytes_;
  scratch_ = Arena(context_, memory_.scratch_bytes);
  if (context_.device().type == DeviceType::kCuda) {
    staging_ = static_cast<char*>(context_.allocate_host(input_bytes_));
    host_logits_ =
        static_cast<float*>(context_.allocate_host(options_.max_logit_rows * vocab_size() * int64_t{sizeof(float)}));
  }
}

// Where the host writes one of the step's inputs.
int32_t* Runner::host(const Tensor& input) const {
  if (!staging_) return input.i32();
  return reinterpret_cast<int32_t*>(staging_ + (input.as<char>() - inputs_));
}

Tensor Runner::logits_on_host(const Tensor& logits) {
  if (!staging_) return logits;
  if (logits.defined()) context_.to_host(host_logits_, logits.data, logits.bytes());
  context_.synchronize();  // also frees the staging block for the next step
  return {host_logits_, logits.shape, DType::kF32, Device{}};
}

// Shows a GPU's tensors to a probe that reads host memory.
Probe Runner::host_probe(const Probe& probe) {
  return [this, &probe](std::string_view name, int layer, const Tensor& value) {
    std::vector<char> copy(static_cast<size_t>(value.bytes()));
    context_.to_host(copy.data(), value.data, value.bytes());
    context_.synchronize();
    probe(name, layer, {copy.data(), value.shape, value.dtype, Device{}});
  };
}

Step Runner::make_step(Arena& scratch, int64_t tokens, int64_t sequences, int64_t rows,
                       std::span<const int64_t> table_widths) {
  Step step;
  step.kernels = &kernels_;
  step.scratch = &scratch;
  step.dtype = options_.dtype;
  step.ids = step.alloc(DType::kI32, {tokens});
  step.positions = step.alloc(DType::kI32, {tokens});
  step.query_start = step.alloc(DType::kI32, {sequences + 1});
  step.context = step.alloc(DType::kI32, {sequences});
  step.logit_rows = step.alloc(DType::kI32, {rows});
  for (size_t g = 0; g < layout_.groups.size(); ++g) {
    Tensor slots = step.alloc(DType::kI32, {tokens});
    Tensor table = step.alloc(DType::kI32, {sequences, table_widths[g]});
    for (int layer : layout_.groups[g].layers) {
      views_[static_cast<size_t>(layer)].slots = slots;
      views_[static_cast<size_t>(layer)].page_table = table;
    }
  }
  step.cache = views_;
  return step;
}

void Runner::fill(const Step& step, std::span<const RunItem> items) {
  int32_t token = 0, row = 0;
  for (size_t b = 0; b < items.size(); ++b) {
    const RunItem& item = items[b];
    const auto count = static_cast<int64_t>(item.tokens.size());
    host(step.query_start)[b] = token;
    host(step.context)[b] = static_cast<int32_t>(item.sequence->length() + count);
    for (int64_t i = 0; i < count; ++i, ++token) {
      const int32_t id = item.tokens[static_cast<size_t>(i)];
      TS_DCHECK(id >= 0 && id < model_.info().vocab_size);
      host(step.ids)[token] = id;
      host(step.positions)[token] = static_cast<int32_t>(item.sequence->length() + i);
      if (item.want == WantLogits::kAll || (item.want == WantLogits::kLast && i + 1 == count))
        host(step.logit_rows)[row++] = token;
    }
  }
  host(step.query_start)[items.size()] = token;
  for (size_t g = 0; g < layout_.groups.size(); ++g) {
    const LayerCacheView& view = views_[static_cast<size_t>(layout_.groups[g].layers[0])];
    int32_t* slot = host(view.slots);
    for (size_t b = 0; b < items.size(); ++b) {
      const Sequence& sequence = *items[b].sequence;
      for (size_t i = 0; i < items[b].tokens.size(); ++i)
        *slot++ = sequence.slot(g, sequence.length() + static_cast<int64_t>(i));
      int32_t* row = host(view.page_table) + static_cast<int64_t>(b) * view.page_table.dim(1);
      std::copy(sequence.table(g).begin(), sequence.table(g).end(), row);
    }
  }
}

Tensor Runner::forward(std::span<const RunItem> items, const Probe* probe) {
  int64_t tokens = 0, rows = 0, max_queries = 0, max_context = 0;
  std::fill(widths_.begin(), widths_.end(), 1);
  for (const RunItem& item : items) {
    const auto count = static_cast<int64_t>(item.tokens.size());
    tokens += count;
    rows += item.want == WantLogits::kAll ? count : item.want == WantLogits::kLast;
    max_queries = std::max(max_queries, count);
    max_context = std::max(max_context, item.sequence->length() + count);
    for (size_t g = 0; g < widths_.size(); ++g)
      widths_[g] = std::max(widths_[g], static_cast<int64_t>(item.sequence->table(g).size()));
  }
  TS_CHECK(tokens > 0 && tokens <= options_.max_batch_tokens && rows <= options_.max_logit_rows &&
           max_context <= options_.max_context && static_cast<int64_t>(items.size()) <= options_.max_sequences);
  mover_->make(cache_->take_copies());
  scratch_.rewind(0);
  void* workspace = scratch_.allocate(workspace_bytes_);
  const int64_t inputs_at = scratch_.used();
  Step step = make_step(scratch_, tokens, static_cast<int64_t>(items.size()), rows, widths_);
  step.stream = {.pool = &thread_pool_, .native = context_.native_stream(), .workspace = workspace};
  step.max_queries = max_queries;
  step.max_context = max_context;
  inputs_ = step.ids.as<char>();
  fill(step, items);
  Probe shown;
  if (probe && staging_) shown = host_probe(*probe);
  step.probe = shown ? &shown : probe;
  if (staging_) context_.to_device(inputs_, staging_, scratch_.used() - inputs_at);
  model_.forward(step);
  return logits_on_host(step.logits);
}

std::optional<Tensor> Runner::run(std::span<const RunItem> items, const Probe* probe) {
  // Pages reserved for an item stay with its sequence if a later item finds none: reserve() is idempotent.
  for (const RunItem& item : items)
    if (!cache_->reserve(*item.sequence, static_cast<int64_t>(item.tokens.size()))) return std::nullopt;
  Tensor logits = forward(items, probe);
  for (const RunItem& item : items) cache_->commit(*item.sequence, item.tokens);
  return logits;
}

}  // namespace tessera
