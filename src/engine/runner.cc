#include "engine/runner.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "core/error.h"
#include "core/host_memory.h"
#include "core/log.h"
#include "engine/cache_budget.h"
#include "layers/gather_logits.h"

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
               const RunnerOptions& options, RankLinks* links)
    : model_(model),
      kernels_(kernels),
      thread_pool_(pool),
      context_(context),
      links_(links),
      options_(options),
      spec_(own_cache(model.cache(), links ? &links->step : nullptr)) {
  if (links_ && links_->leads()) {
    number_ = links_->next_runner++;
    append_bytes(message_, Order{.kind = OrderKind::kMake, .runner = number_});
    append_bytes(message_, options);
    links_->channel->send(message_);
  }
  try {
    prepare();
  } catch (const Error&) {
    give_up();
    throw;
  }
}

// The other ranks' runners, which were made already or wait for this one's sizes, go too.
void Runner::give_up() noexcept {
  if (!links_ || !links_->leads()) return;
  try {
    if (!agreed_) return refuse(*links_);
    message_.clear();
    append_bytes(message_, Order{.kind = OrderKind::kDrop, .runner = number_});
    links_->channel->send(message_);
  } catch (const Error&) {  // the others are gone
  }
}

void Runner::prepare() {
  if (options_.page_size == 0) options_.page_size = default_page_size(spec_);
  check_range("page size", options_.page_size, 1, 4096);
  check_range("context", options_.max_context, 1, int64_t{1} << 24);
  check_range("sequences at once", options_.max_sequences, 1, 65536);
  check_range("tokens in a step", options_.max_batch_tokens, 1, 65536);
  options_.max_batch_tokens = std::max(options_.max_batch_tokens, options_.max_sequences);
  options_.max_logit_rows = std::clamp(options_.max_logit_rows, options_.max_sequences, options_.max_batch_tokens);
  layout_ = layout_cache(spec_, options_.ignore_window);
  Arena shapes = Arena::measuring(context_.device());
  describe_pages(shapes, 1);
  measure();
  allocate_cache();
}

Runner::~Runner() {
  give_up();
  context_.release_host(staging_);
  context_.release_host(host_logits_);
}

// What the device has left after weights and scratch. A machine's main memory is shared with other programs, which get
// half of it; a GPU keeps a little for recorded steps, and for code that is loaded when it is first used.
int64_t Runner::memory_left() const {
  if (context_.device().type == DeviceType::kCpu)
    return (available_memory() - options_.mapped_bytes - memory_.scratch_bytes) / 2 /
           (links_ ? links_->sharing_memory : 1);
  const DeviceInfo info = context_.info();
  return info.free_bytes - device_reserve(info.total_bytes);
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
    Tensor k = arena.tensor(options_.cache_type(), shape);
    stores_.push_back({k, arena.tensor(options_.cache_type(), shape)});
  }
  views_.resize(spec_.layers.size());
  for (size_t i = 0; i < views_.size(); ++i) views_[i].pages = stores_[static_cast<size_t>(layout_.store_of_layer[i])];
}

void Runner::allocate_cache() {
  CacheSizes sizes{.pages = count_pages(),
                   .host_pages = std::min<int64_t>(options_.swap_bytes / page_bytes(), INT32_MAX / options_.page_size),
                   .max_context = options_.max_context};
  if (links_) sizes = agree_on(*links_, sizes);
  agreed_ = true;
  options_.max_context = sizes.max_context;
  const int64_t pages = sizes.pages;
  const auto host_pages = static_cast<int32_t>(sizes.host_pages);
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

// Runs the forward pass without launching anything, for the largest prefill and for every decode step that is recorded.
void Runner::measure() {
  const int64_t widest = ceil_div(options_.max_context, options_.page_size);
  const int64_t tokens = options_.max_batch_tokens, rows = std::min(tokens, options_.max_logit_rows);
  std::vector<StepShape> steps;
  for (int64_t sequences : {int64_t{1}, options_.max_sequences})
    steps.push_back({tokens, sequences, rows, tokens, options_.max_context, widest});
  // Every one: a smaller batch may split its keys more and so need more workspace.
  for (int64_t n : recorded_sizes(options_.max_sequences))
    steps.push_back(recorded_shape({.sequences = n, .max_context = options_.max_context}, options_.max_sequences,
                                   options_.max_context, options_.page_size));
  int64_t peak = 0;
  for (const StepShape& shape : steps) {
    Arena arena = Arena::measuring(context_.device());
    Step step = make_step(arena, shape);
    input_bytes_ = std::max(input_bytes_, arena.used());
    step.measure = true;
    model_.forward(step);
    peak = std::max(peak, arena.peak());
    workspace_bytes_ = std::max(workspace_bytes_, step.workspace_bytes);
  }
  if (context_.asynchronous()) {
    sampling_ =
        std::make_unique<DeviceSampling>(context_, kernels_, options_.max_logit_rows, vocab_size(), own_columns());
    workspace_bytes_ = std::max(workspace_bytes_, sampling_->workspace_bytes());
  }
  workspace_bytes_ = ceil_div(workspace_bytes_, 256) * 256;
  memory_.scratch_bytes = peak + workspace_bytes_;
  scratch_ = Arena(context_, memory_.scratch_bytes);
  if (context_.asynchronous()) {
    staging_ = static_cast<char*>(context_.allocate_host(input_bytes_));
    host_logits_ =
        static_cast<float*>(context_.allocate_host(options_.max_logit_rows * vocab_size() * int64_t{sizeof(float)}));
  }
}

std::vector<KernelChoice> Runner::explain(int64_t tokens, int64_t sequences) {
  std::vector<KernelChoice> choices;
  Arena arena = Arena::measuring(context_.device());
  const int64_t queries = (tokens + sequences - 1) / sequences;
  Step step = make_step(arena, {.tokens = tokens,
                                .sequences = sequences,
                                .rows = sequences,
                                .max_queries = queries,
                                .max_context = options_.max_context,
                                .table_width = ceil_div(options_.max_context, options_.page_size)});
  step.measure = true;
  step.choices = &choices;
  model_.forward(step);
  return choices;
}

// Where the host writes one of the step's inputs.
int32_t* Runner::host(const Tensor& input) const {
  if (!staging_) return input.i32();
  return reinterpret_cast<int32_t*>(staging_ + (input.as<char>() - inputs_));
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

Step Runner::make_step(Arena& scratch, const StepShape& shape) {
  Step step;
  step.kernels = &kernels_;
  step.scratch = &scratch;
  step.dtype = options_.dtype;
  step.ranks = links_ ? &links_->step : nullptr;
  step.max_queries = shape.max_queries;
  step.max_context = shape.max_context;
  step.ids = step.alloc(DType::kI32, {shape.tokens});
  step.positions = step.alloc(DType::kI32, {shape.tokens});
  step.query_start = step.alloc(DType::kI32, {shape.sequences + 1});
  step.context = step.alloc(DType::kI32, {shape.sequences});
  step.logit_rows = step.alloc(DType::kI32, {shape.rows});
  for (const CacheGroup& group : layout_.groups) {
    Tensor slots = step.alloc(DType::kI32, {shape.tokens});
    Tensor table = step.alloc(DType::kI32, {shape.sequences, shape.table_width});
    for (int layer : group.layers) {
      views_[static_cast<size_t>(layer)].slots = slots;
      views_[static_cast<size_t>(layer)].page_table = table;
    }
  }
  step.cache = views_;
  return step;
}

// Writes the step's inputs. Sequences beyond the items' are empty: one token that is not stored and sees nothing.
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
  for (auto b = static_cast<int64_t>(items.size()); b < step.context.dim(0); ++b, ++token) {
    host(step.query_start)[b] = token;
    host(step.context)[b] = 0;
    host(step.ids)[token] = 0;
    host(step.positions)[token] = 0;
    host(step.logit_rows)[row++] = token;
  }
  host(step.query_start)[step.context.dim(0)] = token;
  for (size_t g = 0; g < layout_.groups.size(); ++g) fill_tables(layout_.groups[g], g, items);
}

void Runner::fill_tables(const CacheGroup& group, size_t number, std::span<const RunItem> items) {
  const LayerCacheView& view = views_[static_cast<size_t>(group.layers[0])];
  int32_t* slot = host(view.slots);
  int32_t* const end = slot + view.slots.dim(0);
  for (size_t b = 0; b < items.size(); ++b) {
    const Sequence& sequence = *items[b].sequence;
    for (size_t i = 0; i < items[b].tokens.size(); ++i)
      *slot++ = sequence.slot(number, sequence.length() + static_cast<int64_t>(i));
    int32_t* row = host(view.page_table) + static_cast<int64_t>(b) * view.page_table.dim(1);
    std::copy(sequence.table(number).begin(), sequence.table(number).end(), row);
  }
  std::fill(slot, end, -1);
}

void Runner::launch(std::span<const RunItem> items, const Probe* probe, int64_t candidates) {
  context_.make_current();
  StepShape shape{.sequences = static_cast<int64_t>(items.size()), .table_width = 1};
  for (const RunItem& item : items) {
    const auto count = static_cast<int64_t>(item.tokens.size());
    shape.tokens += count;
    shape.rows += item.want == WantLogits::kAll ? count : item.want == WantLogits::kLast;
    shape.max_queries = std::max(shape.max_queries, count);
    shape.max_context = std::max(shape.max_context, item.sequence->length() + count);
    for (size_t g = 0; g < layout_.groups.size(); ++g)
      shape.table_width = std::max(shape.table_width, static_cast<int64_t>(item.sequence->table(g).size()));
  }
  TS_CHECK(shape.tokens > 0 && shape.tokens <= options_.max_batch_tokens && shape.rows <= options_.max_logit_rows &&
           shape.max_context <= options_.max_context && shape.sequences <= options_.max_sequences);
  const int64_t rows = shape.rows;
  const bool recordable = asynchronous() && !probe && shape.is_decode();
  if (recordable) shape = recorded_shape(shape, options_.max_sequences, options_.max_context, options_.page_size);
  const std::vector<PageCopy> copies = cache_->take_copies();
  mover_->make(copies);
  Step step = begin_step(shape);
  fill(step, items);
  tell(shape, recordable, candidates, copies);
  send_inputs();
  Probe shown;
  if (probe && staging_) shown = host_probe(*probe);
  step.probe = shown ? &shown : probe;
  step.candidates = candidates;
  compute(step, shape, recordable);
  if (logits_.defined()) logits_ = logits_.rows(0, rows);
}

void Runner::compute(Step& step, const StepShape& shape, bool recordable) {
  if (recordable) {
    replay(step, shape);
  } else {
    model_.forward(step);
  }
  logits_ = step.logits;
  parts_ = {};
  if (!step.parts.own.defined()) return;
  if (step.candidates == kInParts) {
    parts_ = step.parts.own;
  } else {
    join_logits(step);
  }
}

void Runner::tell(const StepShape& shape, bool recordable, int64_t candidates, std::span<const PageCopy> copies) {
  if (!links_) return;
  message_.clear();
  append_bytes(message_, Order{.kind = OrderKind::kStep,
                               .runner = number_,
                               .shape = shape,
                               .candidates = candidates,
                               .copies = static_cast<int64_t>(copies.size()),
                               .input_bytes = step_input_bytes_,
                               .recordable = recordable});
  for (const PageCopy& copy : copies) append_bytes(message_, copy);
  message_.append(staging_ ? staging_ : inputs_, static_cast<size_t>(step_input_bytes_));
  links_->channel->send(message_);
}

void Runner::repeat(const Order& order, std::string_view rest) {
  std::vector<PageCopy> copies(static_cast<size_t>(order.copies));
  const size_t copy_bytes = copies.size() * sizeof(PageCopy);
  TS_CHECK(rest.size() == copy_bytes + static_cast<size_t>(order.input_bytes));
  std::memcpy(copies.data(), rest.data(), copy_bytes);
  mover_->make(copies);
  Step step = begin_step(order.shape);
  TS_CHECK(step_input_bytes_ == order.input_bytes, "the ranks' steps have inputs of {} and {} bytes", step_input_bytes_,
           order.input_bytes);
  std::memcpy(staging_ ? staging_ : inputs_, rest.data() + copy_bytes, static_cast<size_t>(order.input_bytes));
  send_inputs();
  step.candidates = order.candidates;
  compute(step, order.shape, order.recordable != 0);
}

// A step in scratch memory, whose inputs are to be filled in.
Step Runner::begin_step(const StepShape& shape) {
  scratch_.rewind(0);
  workspace_ = scratch_.allocate(workspace_bytes_);
  const int64_t inputs_at = scratch_.used();
  Step step = make_step(scratch_, shape);
  step.stream = {.pool = &thread_pool_, .native = context_.native_stream(), .workspace = workspace_};
  inputs_ = step.ids.as<char>();
  step_input_bytes_ = scratch_.used() - inputs_at;
  return step;
}

void Runner::send_inputs() {
  if (staging_) context_.to_device(inputs_, staging_, step_input_bytes_);
}

void Runner::warm_up() {
  if (!asynchronous()) return;
  const auto start = std::chrono::steady_clock::now();
  const int64_t free_before = context_.info().free_bytes;
  const std::vector<int32_t> prompt(static_cast<size_t>(std::min(options_.max_batch_tokens, options_.max_context)), 0);
  {
    std::unique_ptr<Sequence> sequence = open();
    const RunItem item{.sequence = sequence.get(), .tokens = prompt, .want = WantLogits::kLast};
    run({&item, 1});
  }
  for (int64_t n : recorded_sizes(options_.max_sequences)) {
    const StepShape shape = recorded_shape({.sequences = n, .max_context = 1}, options_.max_sequences,
                                           options_.max_context, options_.page_size);
    for (int use = 0; use < 2; ++use) {
      Step step = begin_step(shape);
      fill(step, {});
      tell(shape, true, 0, {});
      send_inputs();
      compute(step, shape, true);
      context_.synchronize();
    }
  }
  log::info("{} decode steps recorded in {:.2f} s; they and the code that they run take {:.1f} MiB", recorded_.size(),
            std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(),
            static_cast<double>(free_before - context_.info().free_bytes) / (1 << 20));
}

void Runner::sample(std::span<const RowSampling> rows) {
  if (rows.empty()) return;
  Stream stream{.pool = &thread_pool_, .native = context_.native_stream(), .workspace = workspace_};
  if (!parts_.defined()) return sampling_->enqueue(logits_, rows, stream);
  std::vector<SampleSettings> settings;
  for (const RowSampling& row : rows) settings.push_back(row.settings);
  message_.clear();
  append_bytes(message_, Order{.kind = OrderKind::kSample, .runner = number_});
  message_.append(reinterpret_cast<const char*>(settings.data()), settings.size() * sizeof(SampleSettings));
  links_->channel->send(message_);
  sampling_->enqueue_parts(parts_.rows(0, static_cast<int64_t>(rows.size())), settings, stream);
}

void Runner::repeat_sampling(std::string_view rest) {
  std::vector<SampleSettings> settings(rest.size() / sizeof(SampleSettings));
  TS_CHECK(rest.size() == settings.size() * sizeof(SampleSettings) && parts_.defined());
  std::memcpy(settings.data(), rest.data(), rest.size());
  Stream stream{.pool = &thread_pool_, .native = context_.native_stream(), .workspace = workspace_};
  sampling_->enqueue_parts(parts_.rows(0, static_cast<int64_t>(settings.size())), settings, stream);
}

LogitColumns Runner::own_columns() const {
  if (!links_ || links_->step.mesh.tensor == 1) return {};
  const StepRanks& ranks = links_->step;
  return {.over = ranks.tensor,
          .first = vocabulary_share(vocab_size(), ranks.mesh, ranks.rank).begin,
          .width = vocabulary_share(vocab_size(), ranks.mesh, ranks.rank).count,
          .widest = vocabulary_share(vocab_size(), ranks.mesh, 0).count};
}

// Runs a decode step whose shape came before as one graph: every address in it is a function of the shape.
void Runner::replay(Step& step, const StepShape& shape) {
  Recorded& recorded = recorded_[{shape.sequences, shape.max_context}];
  if (recorded.uses++ == 0) return model_.forward(step);
  if (!recorded.graph) {
    auto forward = [this, step, &recorded]() mutable {
      model_.forward(step);
      recorded.logits = step.logits;
      recorded.parts = step.parts;
    };
    recorded.graph = context_.record(forward);
  }
  recorded.graph->launch();
  step.logits = recorded.logits;
  step.parts = recorded.parts;
}

Tensor Runner::finish() {
  if (staging_ && logits_.defined()) context_.to_host(host_logits_, logits_.data, logits_.bytes());
  context_.synchronize();  // also frees the staging block for the next step
  if (links_) links_->step.world->check();
  if (!staging_) return logits_;
  return {host_logits_, logits_.shape, DType::kF32, Device{}};
}

SampledRows Runner::finish_sampled() {
  context_.synchronize();
  if (links_) links_->step.world->check();
  return sampling_->result();
}

std::optional<Tensor> Runner::run(std::span<const RunItem> items, const Probe* probe) {
  // Pages reserved for an item stay with its sequence if a later item finds none: reserve() is idempotent.
  for (const RunItem& item : items)
    if (!cache_->reserve(*item.sequence, static_cast<int64_t>(item.tokens.size()))) return std::nullopt;
  launch(items, probe);
  Tensor logits = finish();
  for (const RunItem& item : items) cache_->commit(*item.sequence, item.tokens);
  return logits;
}

}  // namespace tessera
