#include "loading/checkpoint.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <functional>

#include "core/arena.h"
#include "core/host_memory.h"
#include "core/log.h"
#include "loading/arranged_cache.h"
#include "loading/deferred_rows.h"
#include "loading/parallel_tasks.h"
#include "loading/prefetch.h"
#include "loading/row_work.h"
#include "loading/strict_json.h"
#include "quant/mxfp4.h"

namespace tessera {

namespace {

constexpr int64_t kMaxConfigBytes = int64_t{16} << 20;
constexpr int64_t kTaskBytes = int64_t{2} << 20;  // of a task: long against its start, short against a tensor
constexpr int kArrangedLayout = 1;                // of what is made; another one makes older caches stale
constexpr int64_t kArenaAlign = DeferredRows::kAlign;

Weight plain_weight(const Tensor& values) {
  const Shape& shape = values.shape;
  bool experts = shape.rank() == 3;
  return Weight{.format = WeightFormat::kPlain,
                .values = values,
                .experts = experts ? shape[0] : 1,
                .n = shape[experts ? 1 : 0],
                .k = shape[experts ? 2 : 1]};
}

struct Task {
  std::function<void()> run;
  int64_t bytes = 0;  // that it makes
};
using Tasks = std::vector<Task>;

void add_form(Tasks& tasks, RowForm form, char* out) {
  const int64_t step = std::max<int64_t>(kTaskBytes / form.unit, 1) * form.unit;
  for (int64_t begin = 0; begin < form.bytes; begin += step) {
    const int64_t bytes = std::min(step, form.bytes - begin);
    tasks.push_back({[read = form.read, begin, bytes, out] { read(begin, bytes, out + begin); }, bytes});
  }
}

void run_tasks(const Tasks& tasks, ThreadPool& pool, LoadProgress& progress) {
  parallel_tasks(pool, static_cast<int64_t>(tasks.size()), [&](int64_t i) {
    const Task& task = tasks[static_cast<size_t>(i)];
    task.run();
    progress.add(task.bytes);
  });
}

// With room to spare: what does not fit is better left to come page by page.
bool fits_in_memory(int64_t bytes) {
  const int64_t available = available_memory();
  return available > 0 && bytes < available / 10 * 9;
}

}  // namespace

struct Checkpoint::Impl {
  std::string folder;
  Json config;
  Json generation_config = Json::object();
  std::optional<QuantizationConfig> quantization;
  std::optional<SafetensorsSet> tensors;
  Arena arena;
  char* next_made = nullptr;              // in the arena, or in the cache that stands for it
  std::optional<ArrangedCache> arranged;  // the memory of what was found there
  DeferredRows deferred;
  std::vector<Arena> made_later;
  bool loaded = false;

  RowSource source() const { return {folder, config, quantization, tensors ? &*tensors : nullptr}; }
  void bind_all(std::vector<RowWork>& rows, const LoadSettings& settings, Tasks& tasks);
  // Points the row's target at its bytes; adds what is to be copied to the tasks.
  void bind(RowWork& work, const LoadSettings& settings, Tasks& tasks);
  const char* open_arranged(const std::vector<RowWork>& rows, const LoadSettings& settings, int64_t bytes,
                            ThreadPool& pool);
  // Where something that is made lies.
  Tensor room(RowForm form, DType dtype, Shape shape, bool defer, Tasks& tasks);
  // Also notes the largest scale of each row. Without `made`, what was expanded before is not looked at again.
  void check_scales(std::vector<RowWork>& rows, ThreadPool& pool, bool made) const;
  [[noreturn]] void fail_nan_scale(const RowWork& work, int64_t index) const;
};

Tensor Checkpoint::Impl::room(RowForm form, DType dtype, Shape shape, bool defer, Tasks& tasks) {
  if (defer) return {deferred.add(std::move(form)), shape, dtype, Device{}};
  const Tensor made{next_made, shape, dtype, Device{}};
  next_made += (form.bytes + kArenaAlign - 1) / kArenaAlign * kArenaAlign;
  add_form(tasks, std::move(form), made.as<char>());
  return made;
}

// What was made by an earlier load, or null.
const char* Checkpoint::Impl::open_arranged(const std::vector<RowWork>& rows, const LoadSettings& settings,
                                            int64_t bytes, ThreadPool& pool) {
  if (settings.arranged_cache.empty() || settings.deferred || bytes == 0) return nullptr;
  std::string what = fmt::format("{} bytes\n", bytes);
  auto add = [&](const Range& range) { what += fmt::format(" {}+{}", range.begin, range.count); };
  for (const RowWork& work : rows) {
    if (!work.made()) continue;
    what += fmt::format("{} {} {} {}", work.row->name, static_cast<int>(work.action), dtype_name(work.dtype),
                        dtype_name(work.via));
    for (const Range& range : {work.slice.experts, work.slice.rows, work.slice.more_rows, work.slice.columns})
      add(range);
    for (const std::string& name : work.names) what += " " + name;
    what += "\n";
  }
  arranged.emplace(settings.arranged_cache, *tensors, kArrangedLayout, what);
  return arranged->open(bytes, pool);
}

void Checkpoint::Impl::bind(RowWork& work, const LoadSettings& settings, Tasks& tasks) {
  const WeightRow& row = *work.row;
  const Shape& shape = work.shape;
  if (work.action == Action::kNone) {
    if (row.tensor) *row.tensor = {};
    if (row.weight) *row.weight = {};
    return;
  }
  auto tensor = [&](size_t i, DType dtype, Shape as) {
    return work.action == Action::kMap ? part_of(work.sources[i], work.parts[i], as)
                                       : room(form_of(work, i), dtype, as, work.deferred(settings), tasks);
  };
  if (work.mxfp4) {
    *row.weight =
        Weight{.format = WeightFormat::kMxfp4,
               .values = tensor(0, DType::kU8, {shape[0], shape[1], shape[2] / kMxfp4Block, kMxfp4BlockBytes}),
               .scales = tensor(1, DType::kU8, {shape[0], shape[1], shape[2] / kMxfp4Block}),
               .max_scale = work.max_scale,
               .experts = shape[0],
               .n = shape[1],
               .k = shape[2]};
    return;
  }
  Tensor values = tensor(0, work.dtype, shape);
  if (row.tensor) {
    *row.tensor = values;
  } else {
    *row.weight = plain_weight(values);
  }
}

void Checkpoint::Impl::check_scales(std::vector<RowWork>& rows, ThreadPool& pool, bool made) const {
  struct Piece {
    size_t row;
    int64_t begin;
    std::span<const uint8_t> scales;
  };
  std::vector<Piece> pieces;
  for (size_t r = 0; r < rows.size(); ++r) {
    if (rows[r].account.stored != "MXFP4" || rows[r].action == Action::kAlias) continue;
    if (rows[r].action == Action::kDequantize && !made) continue;
    const Strided& part = rows[r].parts[1];
    for (int64_t i = 0; i < part.count; ++i) {
      for (int64_t begin = 0; begin < part.run; begin += kTaskBytes) {
        const auto* scales = reinterpret_cast<const uint8_t*>(part.base + i * part.stride + begin);
        const auto count = static_cast<size_t>(std::min(kTaskBytes, part.run - begin));
        pieces.push_back({r, scales - rows[r].sources[1].as<uint8_t>(), {scales, count}});
      }
    }
  }
  std::vector<uint8_t> largest(pieces.size());
  pool.parallel_for(static_cast<int64_t>(pieces.size()), pieces.size() > 65536 ? 256 : 1,
                    [&](int64_t begin, int64_t end, int) {
                      for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i)
                        largest[i] = mxfp4_max_scale(pieces[i].scales);
                    });
  std::vector<uint8_t> of_row(rows.size(), 0);
  for (size_t i = 0; i < pieces.size(); ++i) {
    const Piece& p = pieces[i];
    of_row[p.row] = std::max(of_row[p.row], largest[i]);
    if (largest[i] == 255) fail_nan_scale(rows[p.row], p.begin + mxfp4_find_nan_scale(p.scales));
  }
  for (size_t r = 0; r < rows.size(); ++r)
    if (rows[r].mxfp4) rows[r].max_scale = of_row[r];
}

void Checkpoint::Impl::fail_nan_scale(const RowWork& work, int64_t index) const {
  const int64_t blocks = work.sources[1].dim(2), outputs = work.sources[1].dim(1);
  fail(ErrorCode::kCorrupt,
       "{}: {}[{}, {}, {}] is 255, which is NaN as an MXFP4 scale; the file is damaged, download it again", folder,
       work.names[1], index / blocks / outputs, index / blocks % outputs, index % blocks);
}

void Checkpoint::Impl::bind_all(std::vector<RowWork>& rows, const LoadSettings& settings, Tasks& tasks) {
  for (RowWork& work : rows)
    if (work.action != Action::kAlias) bind(work, settings, tasks);
  for (const RowWork& work : rows) {
    if (work.action != Action::kAlias) continue;
    for (const RowWork& shared : rows) {
      if (shared.row->name != work.row->alias_of || !shared.row->weight || shared.action == Action::kAlias) continue;
      const Range range = work.slice.rows;
      *work.row->weight = *shared.row->weight;
      work.row->weight->values = shared.row->weight->values.rows(range.begin, range.count);
      work.row->weight->n = range.count;
    }
  }
}

Checkpoint::Checkpoint() : impl_(std::make_unique<Impl>()) {}
Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;
Checkpoint& Checkpoint::operator=(Checkpoint&&) noexcept = default;
Checkpoint::~Checkpoint() = default;

const std::string& Checkpoint::folder() const {
  return impl_->folder;
}
const Json& Checkpoint::config() const {
  return impl_->config;
}
const Json& Checkpoint::generation_config() const {
  return impl_->generation_config;
}
const std::optional<QuantizationConfig>& Checkpoint::quantization() const {
  return impl_->quantization;
}
const SafetensorsSet& Checkpoint::tensors() const {
  return *impl_->tensors;
}

void Checkpoint::read(const void* source, int64_t bytes, char* to) const {
  if (impl_->deferred.holds(source)) return impl_->deferred.read(source, bytes, to);
  for (const SafetensorsFile& file : impl_->tensors->files())
    if (file.maps(source)) return file.read(source, bytes, to);
  std::memcpy(to, source, static_cast<size_t>(bytes));
}

bool Checkpoint::has_tensors() const {
  return impl_->tensors.has_value();
}

DType config_dtype(const Json& config) {
  for (const char* key : {"dtype", "torch_dtype"}) {
    auto it = config.find(key);
    if (it == config.end() || !it->is_string()) continue;
    std::optional<DType> type = dtype_from_config(it->get<std::string>());
    if (type == DType::kF32 || type == DType::kBF16 || type == DType::kF16) return *type;
    fail(ErrorCode::kInvalidArgument, "dtype \"{}\" is not one of auto, float32, bfloat16, float16",
         printable(it->get<std::string>()));
  }
  return DType::kBF16;
}

Checkpoint Checkpoint::from_config(const std::string& path) {
  namespace fs = std::filesystem;
  std::error_code error;
  const bool folder = fs::is_directory(path, error);
  const std::string config_path = folder ? (fs::path(path) / "config.json").string() : path;
  Checkpoint checkpoint;
  checkpoint.impl_->folder = path;
  checkpoint.impl_->config = read_strict_json_file(config_path, kMaxConfigBytes);
  if (!checkpoint.impl_->config.is_object()) fail(ErrorCode::kCorrupt, "{}: expected a JSON object", config_path);
  checkpoint.impl_->quantization = parse_quantization_config(checkpoint.impl_->config, config_path);
  return checkpoint;
}

Checkpoint Checkpoint::open(const std::string& folder) {
  namespace fs = std::filesystem;
  std::error_code error;
  if (!fs::exists(folder, error)) fail(ErrorCode::kNotFound, "{}: no such folder", folder);
  if (!fs::is_directory(folder, error))
    fail(ErrorCode::kInvalidArgument, "{}: is a file; expected a model folder", folder);
  Checkpoint checkpoint;
  Impl& impl = *checkpoint.impl_;
  impl.folder = folder;
  std::string config_path = (fs::path(folder) / "config.json").string();
  if (!fs::exists(config_path, error)) {
    fail(ErrorCode::kNotFound, "{}: has no config.json; expected a Hugging Face model folder, completely downloaded",
         folder);
  }
  impl.config = read_strict_json_file(config_path, kMaxConfigBytes);
  if (!impl.config.is_object()) fail(ErrorCode::kCorrupt, "{}: expected a JSON object", config_path);
  impl.quantization = parse_quantization_config(impl.config, config_path);
  std::string generation_path = (fs::path(folder) / "generation_config.json").string();
  if (fs::exists(generation_path, error)) {
    impl.generation_config = read_strict_json_file(generation_path, kMaxConfigBytes);
    if (!impl.generation_config.is_object()) fail(ErrorCode::kCorrupt, "{}: expected a JSON object", generation_path);
  }
  impl.tensors = SafetensorsSet::open(folder);
  for (const std::string& note : impl.tensors->notes()) log::warn("{}", note);
  return checkpoint;
}

std::vector<LoadedRow> Checkpoint::load(const WeightPlan& plan, const LoadSettings& settings, ThreadPool& pool) {
  Impl& impl = *impl_;
  TS_CHECK(!impl.loaded && impl.tensors, "a Checkpoint is loaded once, from files");
  impl.tensors->check_unchanged();  // reading the pages that a file lost ends the process
  std::vector<RowWork> rows = plan_rows(plan, settings, impl.source());
  int64_t capacity = 0, apart = 0;
  for (const RowWork& work : rows)
    if (work.made()) (work.deferred(settings) ? apart : capacity) += work.room();
  const char* arranged = impl.open_arranged(rows, settings, capacity, pool);
  std::optional<FilePrefetch> prefetch;
  int64_t total = arranged ? 0 : capacity;
  if (!settings.deferred) {
    prefetch.emplace(*impl.tensors, held_ranges(rows, /*made=*/!arranged));
    if (!fits_in_memory(prefetch->bytes() + capacity)) prefetch.reset();
    if (prefetch) total += prefetch->bytes();
  }
  LoadProgress progress(settings.on_progress, total);
  if (prefetch) prefetch->run(pool, progress);
  impl.check_scales(rows, pool, /*made=*/!arranged);

  if (!arranged) impl.arena = Arena(capacity);
  char* made = arranged ? const_cast<char*>(arranged) : static_cast<char*>(impl.arena.allocate(capacity));
  impl.next_made = made;
  impl.deferred.reserve(apart);
  Tasks tasks;
  impl.bind_all(rows, settings, tasks);
  if (!arranged) run_tasks(tasks, pool, progress);
  progress.finish();
  impl.tensors->check_unchanged();
  if (impl.arranged && !arranged) impl.arranged->write(made, capacity, pool);
  impl.loaded = true;

  std::vector<LoadedRow> accounts;
  for (RowWork& work : rows) accounts.push_back(std::move(work.account));
  return accounts;
}

void Checkpoint::make_deferred(std::span<Weight* const> weights, ThreadPool& pool) {
  Impl& impl = *impl_;
  std::vector<Tensor*> late;
  int64_t bytes = 0;
  for (Weight* weight : weights) {
    for (Tensor* t : {&weight->values, &weight->scales}) {
      if (!t->defined() || !impl.deferred.holds(t->data)) continue;
      late.push_back(t);
      bytes += (t->bytes() / kArenaAlign + 1) * kArenaAlign;
    }
  }
  if (late.empty()) return;
  Arena& arena = impl.made_later.emplace_back(bytes);
  Tasks tasks;
  for (Tensor* t : late) {
    Tensor made = arena.tensor(t->dtype, t->shape);
    add_form(tasks, impl.deferred.form_at(t->data), made.as<char>());
    *t = made;
  }
  const LoadProgressCallback nobody;
  LoadProgress progress(nobody, 0);
  run_tasks(tasks, pool, progress);
}

void Checkpoint::bind_shapes(const WeightPlan& plan, const LoadSettings& settings) {
  std::vector<RowWork> rows = plan_rows(plan, settings, impl_->source());
  impl_->next_made = reinterpret_cast<char*>(kArenaAlign);
  Tasks never_run;
  LoadSettings bound = settings;
  bound.deferred = false;
  impl_->bind_all(rows, bound, never_run);
}

std::vector<LoadedRow> Checkpoint::forecast(const WeightPlan& plan, const LoadSettings& settings) const {
  std::vector<LoadedRow> accounts;
  for (RowWork& work : plan_rows(plan, settings, impl_->source())) accounts.push_back(std::move(work.account));
  return accounts;
}

}  // namespace tessera
