#include "engine/runner.h"

#include <algorithm>

#include "core/error.h"

namespace tessera {

namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

void check_range(const char* name, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high)
    fail(ErrorCode::kInvalidArgument, "{} is {}; expected {} to {}", name, value, low, high);
}

}  // namespace

Runner::Runner(const Model& model, const Kernels& kernels, ThreadPool& pool, const RunnerOptions& options)
    : model_(model), kernels_(kernels), thread_pool_(pool), options_(options), spec_(model.cache()) {
  check_range("page size", options_.page_size, 1, 4096);
  check_range("context", options_.max_context, 1, int64_t{1} << 24);
  check_range("sequences at once", options_.max_sequences, 1, 65536);
  check_range("tokens in a step", options_.max_batch_tokens, 1, 65536);
  options_.max_batch_tokens = std::max(options_.max_batch_tokens, options_.max_sequences);
  options_.max_logit_rows = std::clamp(options_.max_logit_rows, options_.max_sequences, options_.max_batch_tokens);
  groups_ = group_layers(spec_, options_.ignore_window);
  allocate_cache();
  measure();
}

void Runner::allocate_cache() {
  const int64_t element = dtype_size(options_.dtype), page_size = options_.page_size;
  std::vector<int64_t> pages;
  int64_t bytes = 0;
  for (const CacheGroup& group : groups_) {
    int64_t each = ceil_div(options_.max_context, page_size);
    // A window group holds what a step of max_batch_tokens new tokens can see, whatever the length.
    if (group.window > 0)
      each = std::min(each, ceil_div(group.window + options_.max_batch_tokens - 2, page_size) + 1);
    int64_t count = each * options_.max_sequences;
    if (count * page_size > INT32_MAX) {
      fail(ErrorCode::kInvalidArgument, "a cache for {} sequences of {} tokens has too many slots; lower --max-context",
           options_.max_sequences, options_.max_context);
    }
    pages.push_back(count);
    pools_.push_back(std::make_unique<PagePool>(static_cast<int32_t>(count)));
    for (int layer : group.layers)
      bytes += (token_bytes(spec_.layers[static_cast<size_t>(layer)], element) * page_size * count + 256);
  }
  cache_arena_ = Arena(bytes);
  memory_.cache_bytes = bytes;
  views_.resize(spec_.layers.size());
  for (size_t g = 0; g < groups_.size(); ++g) {
    for (int layer : groups_[g].layers) {
      const LayerCache& c = spec_.layers[static_cast<size_t>(layer)];
      Shape shape{pages[g], c.kv_heads, page_size, c.head_dim};
      views_[static_cast<size_t>(layer)].pages = {cache_arena_.tensor(options_.dtype, shape),
                                                  cache_arena_.tensor(options_.dtype, shape)};
    }
  }
  widths_.resize(groups_.size());
}

// Runs the forward pass without launching anything, for the largest prefill and the largest decode step.
void Runner::measure() {
  const int64_t widest = ceil_div(options_.max_context, options_.page_size);
  std::fill(widths_.begin(), widths_.end(), widest);
  int64_t peak = 0;
  const std::pair<int64_t, int64_t> steps[] = {{options_.max_batch_tokens, 1},
                                               {options_.max_batch_tokens, options_.max_sequences}};
  for (auto [tokens, sequences] : steps) {
    Arena arena = Arena::measuring();
    Step step = make_step(arena, tokens, sequences, std::min(tokens, options_.max_logit_rows), widths_);
    step.measure = true;
    step.max_queries = tokens;
    step.max_context = options_.max_context;
    model_.forward(step);
    peak = std::max(peak, arena.peak());
    workspace_bytes_ = std::max(workspace_bytes_, step.workspace_bytes);
  }
  workspace_bytes_ = ceil_div(workspace_bytes_, 64) * 64;
  memory_.scratch_bytes = peak + workspace_bytes_;
  scratch_ = Arena(memory_.scratch_bytes);
}

std::unique_ptr<Sequence> Runner::open() {
  auto sequence = std::make_unique<Sequence>();
  sequence->groups.reserve(groups_.size());
  for (size_t g = 0; g < groups_.size(); ++g)
    sequence->groups.emplace_back(*pools_[g], options_.page_size, groups_[g].window);
  return sequence;
}

Step Runner::make_step(Arena& scratch, int64_t tokens, int64_t sequences, int64_t rows, std::span<const int64_t> table_widths) {
  Step step;
  step.kernels = &kernels_;
  step.scratch = &scratch;
  step.dtype = options_.dtype;
  step.ids = step.alloc(DType::kI32, {tokens});
  step.positions = step.alloc(DType::kI32, {tokens});
  step.query_start = step.alloc(DType::kI32, {sequences + 1});
  step.context = step.alloc(DType::kI32, {sequences});
  step.logit_rows = step.alloc(DType::kI32, {rows});
  for (size_t g = 0; g < groups_.size(); ++g) {
    Tensor slots = step.alloc(DType::kI32, {tokens});
    Tensor table = step.alloc(DType::kI32, {sequences, table_widths[g]});
    for (int layer : groups_[g].layers) {
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
    step.query_start.i32()[b] = token;
    step.context.i32()[b] = static_cast<int32_t>(item.sequence->length + count);
    for (int64_t i = 0; i < count; ++i, ++token) {
      const int32_t id = item.tokens[static_cast<size_t>(i)];
      TS_DCHECK(id >= 0 && id < model_.info().vocab_size);
      step.ids.i32()[token] = id;
      step.positions.i32()[token] = static_cast<int32_t>(item.sequence->length + i);
      if (item.want == WantLogits::kAll || (item.want == WantLogits::kLast && i + 1 == count))
        step.logit_rows.i32()[row++] = token;
    }
  }
  step.query_start.i32()[items.size()] = token;
  for (size_t g = 0; g < groups_.size(); ++g) {
    const LayerCacheView& view = views_[static_cast<size_t>(groups_[g].layers[0])];
    int32_t* slot = view.slots.i32();
    for (size_t b = 0; b < items.size(); ++b) {
      const Sequence& sequence = *items[b].sequence;
      const SequencePages& pages = sequence.groups[g];
      for (size_t i = 0; i < items[b].tokens.size(); ++i) *slot++ = pages.slot(sequence.length + static_cast<int64_t>(i));
      int32_t* table = view.page_table.i32() + static_cast<int64_t>(b) * view.page_table.dim(1);
      std::copy(pages.table().begin(), pages.table().end(), table);
    }
  }
}

std::optional<Tensor> Runner::run(std::span<const RunItem> items, const Probe* probe) {
  int64_t tokens = 0, rows = 0, max_queries = 0, max_context = 0;
  for (const RunItem& item : items) {
    const auto count = static_cast<int64_t>(item.tokens.size());
    tokens += count;
    rows += item.want == WantLogits::kAll ? count : item.want == WantLogits::kLast;
    max_queries = std::max(max_queries, count);
    max_context = std::max(max_context, item.sequence->length + count);
    // Pages reserved for an item stay with its sequence if a later item finds none: reserve() is idempotent.
    for (SequencePages& pages : item.sequence->groups)
      if (!pages.reserve(item.sequence->length + count)) return std::nullopt;
  }
  TS_CHECK(tokens > 0 && tokens <= options_.max_batch_tokens && rows <= options_.max_logit_rows &&
           max_context <= options_.max_context && static_cast<int64_t>(items.size()) <= options_.max_sequences);
  for (size_t g = 0; g < groups_.size(); ++g) {
    widths_[g] = 1;
    for (const RunItem& item : items)
      widths_[g] = std::max(widths_[g], static_cast<int64_t>(item.sequence->groups[g].table().size()));
  }
  scratch_.rewind(0);
  void* workspace = scratch_.allocate(workspace_bytes_);
  Step step = make_step(scratch_, tokens, static_cast<int64_t>(items.size()), rows, widths_);
  step.stream = {.pool = &thread_pool_, .workspace = workspace};
  step.max_queries = max_queries;
  step.max_context = max_context;
  step.probe = probe;
  fill(step, items);
  model_.forward(step);
  for (const RunItem& item : items) {
    item.sequence->length += static_cast<int64_t>(item.tokens.size());
    for (SequencePages& pages : item.sequence->groups) pages.commit(item.sequence->length);
  }
  return step.logits;
}

}  // namespace tessera
