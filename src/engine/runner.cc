#include "engine/runner.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
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

// Of logits.
int64_t rows_of(const RunItem& item) {
  return item.want == WantLogits::kAll ? std::ssize(item.tokens) : item.want == WantLogits::kLast;
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
  try {
    context_.synchronize();  // after a fault a step may be on its way that nobody has waited for
  } catch (const Error&) {   // whoever waited for the one before it has heard
  }
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
  for (size_t g = 0; g < groups(); ++g)
    caches_.push_back(std::make_unique<PagedCache>(CacheOptions{.windows = windows_of(layout_),
                                                                .page_size = options_.page_size,
                                                                .pages = static_cast<int32_t>(pages),
                                                                .host_pages = host_pages,
                                                                .prefix_cache = options_.prefix_cache,
                                                                .checkpoint_tokens = options_.checkpoint_tokens,
                                                                .shard = static_cast<int>(g)}));
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
  // With groups: all tokens may be one group's, and then the others' steps are filled up with one each.
  std::vector<std::vector<Part>> steps;
  for (int64_t sequences : {int64_t{1}, options_.max_sequences}) {
    steps.push_back(same_parts({tokens, sequences, rows, tokens, options_.max_context, widest, rows, rows}));
    for (size_t g = 0; g < groups(); ++g)
      if (g != group()) steps.back()[g].shape.tokens = 1;
  }
  // Every one: a smaller batch may split its keys more and so need more workspace.
  for (int64_t n : recorded_sizes(options_.max_sequences))
    steps.push_back(same_parts(recorded({.sequences = n, .max_context = options_.max_context})));
  int64_t peak = 0;
  for (const std::vector<Part>& parts : steps) {
    Arena arena = Arena::measuring(context_.device());
    Step step = make_step(arena, parts, group());
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
    input_bytes_ = ceil_div(input_bytes_, 256) * 256;
    staging_ = static_cast<char*>(context_.allocate_host(2 * input_bytes_));
    host_logits_ =
        static_cast<float*>(context_.allocate_host(options_.max_logit_rows * vocab_size() * int64_t{sizeof(float)}));
  }
}

std::vector<KernelChoice> Runner::explain(int64_t tokens, int64_t sequences) {
  std::vector<KernelChoice> choices;
  Arena arena = Arena::measuring(context_.device());
  const int64_t queries = (tokens + sequences - 1) / sequences;
  Step step = make_step(arena,
                        same_parts({.tokens = tokens,
                                    .sequences = sequences,
                                    .rows = sequences,
                                    .max_queries = queries,
                                    .max_context = options_.max_context,
                                    .table_width = ceil_div(options_.max_context, options_.page_size),
                                    .all_rows = sequences,
                                    .most_rows = sequences}),
                        group());
  step.measure = true;
  step.choices = &choices;
  model_.forward(step);
  return choices;
}

// Where the host writes one of the inputs of the step that is filled in.
int32_t* Runner::host(const Tensor& input) const {
  return reinterpret_cast<int32_t*>(fill_at_ + (input.as<char>() - fill_from_));
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

// A step of one group; the others' have these sizes.
Step Runner::make_step(Arena& scratch, const std::vector<Part>& parts, size_t group) {
  const StepShape& shape = parts[group].shape;
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
  if (parts.size() > 1) {
    group_tokens_.clear();
    for (const Part& part : parts) group_tokens_.push_back(part.shape.tokens);
    step.groups = {.tokens = group_tokens_,
                   .live = step.alloc(DType::kI32, {1}),
                   .most_rows = shape.most_rows,
                   .row_order = step.alloc(DType::kI32, {shape.all_rows})};
  }
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

// Writes the step's inputs to `at`, laid out as they lie in the step. Sequences beyond the items' are empty: one token
// that is not stored and sees nothing.
void Runner::fill(const Step& step, std::span<const RunItem> items, char* at) {
  fill_from_ = step.ids.as<char>(), fill_at_ = at;
  int32_t token = 0, row = 0;
  for (size_t b = 0; b < items.size(); ++b) {
    const RunItem& item = items[b];
    const auto count = static_cast<int64_t>(item.tokens.size());
    host(step.query_start)[b] = token;
    host(step.context)[b] = static_cast<int32_t>(item.sequence->length() + count);
    for (int64_t i = 0; i < count; ++i, ++token) {
      const int32_t id = item.tokens[static_cast<size_t>(i)];
      TS_DCHECK(id < model_.info().vocab_size && (id >= 0 || asynchronous()));
      host(step.ids)[token] = id;
      host(step.positions)[token] = static_cast<int32_t>(item.sequence->length() + i);
      if (item.want == WantLogits::kAll || (item.want == WantLogits::kLast && i + 1 == count))
        host(step.logit_rows)[row++] = token;
    }
  }
  if (step.groups.live.defined()) {
    *host(step.groups.live) = token;
    int32_t* order = host(step.groups.row_order);
    std::fill(std::copy(row_order_.begin(), row_order_.end(), order), order + step.groups.row_order.dim(0), 0);
  }
  for (auto b = static_cast<int64_t>(items.size()); b < step.context.dim(0); ++b, ++token) {
    host(step.query_start)[b] = token;
    host(step.context)[b] = 0;
    host(step.ids)[token] = 0;
    host(step.positions)[token] = 0;
    if (row < step.logit_rows.dim(0)) host(step.logit_rows)[row++] = token;
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

std::vector<PagedCache*> Runner::caches() const {
  std::vector<PagedCache*> all;
  for (const std::unique_ptr<PagedCache>& cache : caches_) all.push_back(cache.get());
  return all;
}

// Of every group, where there are several.
StepShape Runner::recorded(const StepShape& shape) const {
  StepShape rounded = recorded_shape(shape, options_.max_sequences, options_.max_context, options_.page_size);
  rounded.all_rows = std::min(rounded.rows * static_cast<int64_t>(groups()), options_.max_sequences);
  rounded.most_rows = rounded.rows;
  return rounded;
}

std::vector<Runner::Part> Runner::same_parts(const StepShape& shape) const {
  return std::vector<Part>(groups(), Part{.shape = shape});
}

// The items and copies of each group, and where each item's logits will lie.
std::vector<Runner::Part> Runner::parts_of(std::span<const RunItem> items) {
  std::vector<Part> parts(groups());
  for (const RunItem& item : items)
    parts[static_cast<size_t>(item.sequence->cache().options().shard)].items.push_back(item);
  for (Part& part : parts) {
    part.shape = {.sequences = std::ssize(part.items), .table_width = 1};
    for (const RunItem& item : part.items) {
      const auto count = std::ssize(item.tokens);
      part.shape.tokens += count;
      part.shape.rows += rows_of(item);
      part.shape.max_queries = std::max(part.shape.max_queries, count);
      part.shape.max_context = std::max(part.shape.max_context, item.sequence->length() + count);
      for (size_t g = 0; g < layout_.groups.size(); ++g)
        part.shape.table_width = std::max(part.shape.table_width, std::ssize(item.sequence->table(g)));
    }
  }
  for (size_t g = 0; g < parts.size(); ++g) parts[g].copies = caches_[g]->take_copies();
  return parts;
}

// Rounds the parts' shapes up to what may be recorded, or to what all can run together; true when it is recorded.
bool Runner::shape_parts(std::vector<Part>& parts, bool recordable) const {
  StepShape all, most;
  for (const Part& part : parts) {
    const StepShape& shape = part.shape;
    recordable = recordable && shape.is_decode();
    all.tokens += shape.tokens, all.rows += shape.rows, all.sequences += shape.sequences;
    most.sequences = std::max(most.sequences, shape.sequences);
    most.max_context = std::max(most.max_context, shape.max_context);
    most.rows = std::max(most.rows, shape.rows);
  }
  TS_CHECK(all.tokens > 0 && all.tokens <= options_.max_batch_tokens && all.rows <= options_.max_logit_rows &&
           most.max_context <= options_.max_context && all.sequences <= options_.max_sequences);
  for (Part& part : parts) {
    if (recordable) {
      part.shape = recorded(most);
      continue;
    }
    if (part.items.empty())
      part.shape = {.tokens = 1, .sequences = 1, .max_queries = 1, .max_context = 1, .table_width = 1};
    part.shape.all_rows = all.rows, part.shape.most_rows = most.rows;
  }
  return recordable;
}

void Runner::launch(std::span<const RunItem> items, const Probe* probe, int64_t candidates) {
  context_.make_current();
  std::vector<Part> parts = parts_of(items);
  const bool recorded = shape_parts(parts, asynchronous() && !probe);
  int64_t rows = 0;
  row_order_.clear();
  std::vector<int32_t> next(parts.size(), 0);
  for (const RunItem& item : items) {
    const int shard = item.sequence->cache().options().shard;
    const auto first = static_cast<int32_t>(shard * parts[0].shape.most_rows);
    for (int64_t i = 0; i < rows_of(item); ++i, ++rows)
      row_order_.push_back(first + next[static_cast<size_t>(shard)]++);
  }
  mover_->make(parts[0].copies);
  Step step = tell_and_begin(parts, recorded, candidates);
  send_inputs(step);
  Probe shown;
  if (probe && staging_) shown = host_probe(*probe);
  step.probe = shown ? &shown : probe;
  step.candidates = candidates;
  compute(step, parts[0].shape, recorded);
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

// Fills this rank's step, group 0's, in, and with other ranks tells them all groups' steps.
Step Runner::tell_and_begin(const std::vector<Part>& parts, bool recordable, int64_t candidates) {
  message_.clear();
  append_bytes(message_,
               Order{.kind = OrderKind::kStep, .runner = number_, .candidates = candidates, .recordable = recordable});
  const size_t heads = message_.size();
  for (const Part& part : parts)
    append_bytes(message_, GroupOrder{.shape = part.shape, .copies = std::ssize(part.copies)});
  auto add = [&](size_t g, int64_t input_bytes) {
    std::memcpy(message_.data() + heads + g * sizeof(GroupOrder) + offsetof(GroupOrder, input_bytes), &input_bytes,
                sizeof input_bytes);
    for (const PageCopy& copy : parts[g].copies) append_bytes(message_, copy);
    message_.resize(message_.size() + static_cast<size_t>(input_bytes));
    return message_.data() + message_.size() - input_bytes;
  };
  for (size_t g = parts.size(); g-- > 1;) {
    Arena arena = Arena::measuring(context_.device());
    const Step other = make_step(arena, parts, g);
    fill(other, parts[g].items, add(g, arena.used()));
  }
  Step step = begin_step(parts, 0);
  char* inputs = staging_ ? staged_ : inputs_;
  fill(step, parts[0].items, inputs);
  if (!links_) return step;
  std::memcpy(add(0, step_input_bytes_), inputs, static_cast<size_t>(step_input_bytes_));
  links_->channel->send(message_);
  return step;
}

void Runner::repeat(const Order& order, std::string_view rest) {
  std::vector<Part> parts(groups());
  std::vector<GroupOrder> heads(parts.size());
  TS_CHECK(rest.size() >= heads.size() * sizeof(GroupOrder));
  std::memcpy(heads.data(), rest.data(), heads.size() * sizeof(GroupOrder));
  const auto mine = group();
  size_t at = heads.size() * sizeof(GroupOrder);
  for (size_t g = parts.size(); g-- > 0;) {
    parts[g].shape = heads[g].shape;
    if (g > mine)
      at += static_cast<size_t>(heads[g].copies) * sizeof(PageCopy) + static_cast<size_t>(heads[g].input_bytes);
  }
  std::vector<PageCopy> copies(static_cast<size_t>(heads[mine].copies));
  const size_t copy_bytes = copies.size() * sizeof(PageCopy),
               input_bytes = static_cast<size_t>(heads[mine].input_bytes);
  TS_CHECK(rest.size() >= at + copy_bytes + input_bytes);
  if (copy_bytes > 0) std::memcpy(copies.data(), rest.data() + at, copy_bytes);
  mover_->make(copies);
  Step step = begin_step(parts, mine);
  TS_CHECK(step_input_bytes_ == heads[mine].input_bytes, "the ranks' steps have inputs of {} and {} bytes",
           step_input_bytes_, heads[mine].input_bytes);
  std::memcpy(staging_ ? staged_ : inputs_, rest.data() + at + copy_bytes, input_bytes);
  send_inputs(step);
  step.candidates = order.candidates;
  compute(step, parts[mine].shape, order.recordable != 0);
}

// A step in scratch memory, whose inputs are to be filled in.
Step Runner::begin_step(const std::vector<Part>& parts, size_t group) {
  if (staging_) {
    turn_ = 1 - turn_;
    staged_ = staging_ + turn_ * input_bytes_;
    if (marks_[turn_] >= 0) context_.wait_for(marks_[turn_]);
    marks_[turn_] = -1;
  }
  scratch_.rewind(0);
  workspace_ = scratch_.allocate(workspace_bytes_);
  const int64_t inputs_at = scratch_.used();
  Step step = make_step(scratch_, parts, group);
  step.stream = {.pool = &thread_pool_, .native = context_.native_stream(), .workspace = workspace_};
  inputs_ = step.ids.as<char>();
  step_input_bytes_ = scratch_.used() - inputs_at;
  return step;
}

// Awaited tokens are on the device.
void Runner::send_inputs(const Step& step) {
  if (!staging_) return;
  context_.to_device(inputs_, staged_, step_input_bytes_);
  const auto* ids = reinterpret_cast<const int32_t*>(staged_ + (step.ids.as<char>() - inputs_));
  const int64_t tokens = step.ids.dim(0);
  for (int64_t first = 0, next; first < tokens; first = next) {
    next = first + 1;
    if (ids[first] >= 0) continue;
    while (next < tokens && ids[next] == ids[next - 1] - 1) ++next;
    const Tensor chosen = sampling_->ids().rows(-1 - ids[first], next - first);
    context_.copy_on_device(step.ids.rows(first, next - first).data, chosen.data, chosen.bytes());
  }
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
    const StepShape shape = recorded({.sequences = n, .max_context = 1});
    for (int use = 0; use < 2; ++use) {
      row_order_.clear();
      Step step = tell_and_begin(same_parts(shape), true, 0);
      send_inputs(step);
      compute(step, shape, true);
      context_.synchronize();
    }
  }
  log::info("{} decode steps recorded in {:.2f} s; they and the code that they run take {:.1f} MiB", recorded_.size(),
            std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(),
            static_cast<double>(free_before - context_.info().free_bytes) / (1 << 20));
}

void Runner::sample(std::span<const RowSampling> rows) {
  if (parts_.defined()) {
    std::vector<SampleSettings> settings;
    for (const RowSampling& row : rows) settings.push_back(row.settings);
    message_.clear();
    append_bytes(message_, Order{.kind = OrderKind::kSample, .runner = number_});
    message_.append(reinterpret_cast<const char*>(settings.data()), settings.size() * sizeof(SampleSettings));
    links_->channel->send(message_);
    return sample_parts(settings);
  }
  Stream stream{.pool = &thread_pool_, .native = context_.native_stream(), .workspace = workspace_};
  if (!rows.empty()) sampling_->enqueue(logits_, rows, turn_, stream);
  marks_[turn_] = context_.mark();
}

void Runner::repeat_sampling(std::string_view rest) {
  std::vector<SampleSettings> settings(rest.size() / sizeof(SampleSettings));
  TS_CHECK(rest.size() == settings.size() * sizeof(SampleSettings) && parts_.defined());
  std::memcpy(settings.data(), rest.data(), rest.size());
  sample_parts(settings);
}

void Runner::sample_parts(std::span<const SampleSettings> settings) {
  Stream stream{.pool = &thread_pool_, .native = context_.native_stream(), .workspace = workspace_};
  sampling_->enqueue_parts(parts_.rows(0, static_cast<int64_t>(settings.size())), settings, turn_, stream);
  marks_[turn_] = context_.mark();
}

LogitColumns Runner::own_columns() const {
  if (!links_ || links_->step.mesh.ranks() == 1) return {};
  const StepRanks& ranks = links_->step;
  return {.over = ranks.world,
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
  context_.synchronize();
  if (links_) links_->step.world->check();
  if (!staging_) return logits_;
  return {host_logits_, logits_.shape, DType::kF32, Device{}};
}

SampledRows Runner::finish_sampled(int turn) {
  TS_CHECK(marks_[turn] >= 0, "the step was not sampled");
  context_.wait_for(marks_[turn]);
  if (links_) links_->step.world->check();
  return sampling_->result(turn);
}

SampledRows Runner::finish_sampled() {
  return finish_sampled(turn_);
}

SampledRows Runner::finish_before() {
  return finish_sampled(1 - turn_);
}

std::optional<Tensor> Runner::run(std::span<const RunItem> items, const Probe* probe) {
  // Pages reserved for an item stay with its sequence if a later item finds none: reserve() is idempotent.
  for (const RunItem& item : items)
    if (!item.sequence->cache().reserve(*item.sequence, static_cast<int64_t>(item.tokens.size()))) return std::nullopt;
  launch(items, probe);
  Tensor logits = finish();
  for (const RunItem& item : items) item.sequence->cache().commit(*item.sequence, item.tokens);
  return logits;
}

}  // namespace tessera
