#include "loading/checkpoint.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <functional>
#include <unordered_map>

#include "core/arena.h"
#include "core/log.h"
#include "loading/cast.h"
#include "loading/checkpoint_tensors.h"
#include "loading/parallel_tasks.h"
#include "loading/strict_json.h"
#include "quant/mxfp4.h"

namespace tessera {

namespace {

constexpr int64_t kMaxConfigBytes = int64_t{16} << 20;
constexpr int64_t kTaskValues = int64_t{1}
                                << 20;  // values a task copies: long against its start, short against a tensor
constexpr int64_t kArenaAlign = 64;

// How a row gets from the files to memory.
enum class Action { kMap, kCast, kTranspose, kStack, kDequantize, kAlias };

struct RowWork {
  const WeightRow* row = nullptr;
  Action action = Action::kMap;
  std::vector<Tensor> sources;     // mapped; MXFP4: blocks, scales
  std::vector<std::string> names;  // of the sources
  bool mxfp4 = false;              // in memory
  DType dtype = DType::kF32;       // in memory, of the copy or the map
  DType via = DType::kF32;         // vectors are rounded to this type first
  uint8_t max_scale = 255;
  LoadedRow account;

  int64_t copy_bytes() const { return action == Action::kMap || action == Action::kAlias ? 0 : account.memory_bytes; }
};

int64_t sum_bytes(const std::vector<Tensor>& tensors) {
  int64_t bytes = 0;
  for (const Tensor& t : tensors) bytes += t.bytes();
  return bytes;
}

// The type in memory of a plain weight stored as `stored`.
DType kept_dtype(DType stored, DType asked) {
  return changes_values(stored, asked) ? asked : stored;
}

void plan_vector(RowWork& work, const LoadSettings& settings) {
  const Tensor& source = work.sources[0];
  work.dtype = DType::kF32;
  work.via = kept_dtype(source.dtype, settings.dtype);
  bool as_is = source.dtype == DType::kF32 && work.via == DType::kF32 && is_aligned(source);
  work.action = as_is ? Action::kMap : Action::kCast;
  if (work.via != source.dtype) {
    work.account.why = fmt::format("rounded to {}; vectors are held as F32", dtype_name(work.via));
  } else if (source.dtype != DType::kF32) {
    work.account.why = "vectors are held as F32";
  } else if (!as_is) {
    work.account.why = "not aligned in the file";
  }
}

void plan_plain(RowWork& work, const LoadSettings& settings) {
  DType stored = work.sources[0].dtype;
  for (const Tensor& t : work.sources)
    if (t.dtype != stored) stored = DType::kF32;  // a mixed list: one type that holds all
  work.dtype = kept_dtype(stored, settings.dtype);
  std::string& why = work.account.why;
  if (work.row->kind == RowKind::kExperts) {
    work.action = Action::kTranspose;
    why = "transposed";
  } else if (work.row->kind == RowKind::kExpertList) {
    work.action = Action::kStack;
    why = "stacked";
  } else {
    bool as_is = work.dtype == stored && is_aligned(work.sources[0]);
    work.action = as_is ? Action::kMap : Action::kCast;
    if (!as_is && work.dtype == stored) why = "not aligned in the file";
  }
  if (work.dtype != stored) why += fmt::format("{}rounded to {}", why.empty() ? "" : ", ", dtype_name(work.dtype));
  if (work.dtype != settings.dtype)
    why += fmt::format("{}the same values as {}", why.empty() ? "" : ", ", dtype_name(settings.dtype));
}

void plan_mxfp4(RowWork& work, const LoadSettings& settings) {
  work.mxfp4 = !settings.dequantize;
  work.dtype = settings.dequantize ? DType::kBF16 : DType::kU8;
  work.action = settings.dequantize ? Action::kDequantize : Action::kMap;
  if (settings.dequantize) {
    work.account.why = "dequantized";
    if (settings.dtype != DType::kBF16)
      work.account.why += fmt::format(", exact, so not {}", dtype_name(settings.dtype));
  }
}

Weight plain_weight(const Tensor& values, const WeightRow& row) {
  bool experts = row.shape.rank() == 3;
  return Weight{.format = WeightFormat::kPlain,
                .values = values,
                .experts = experts ? row.shape[0] : 1,
                .n = row.shape[experts ? 1 : 0],
                .k = row.shape[experts ? 2 : 1]};
}

using Tasks = std::vector<std::function<void()>>;

void add_cast(Tasks& tasks, const Tensor& source, DType via, char* out, DType to) {
  int64_t from_size = dtype_size(source.dtype), to_size = dtype_size(to);
  for (int64_t begin = 0; begin < source.numel(); begin += kTaskValues) {
    int64_t count = std::min(kTaskValues, source.numel() - begin);
    const char* in = source.as<char>() + begin * from_size;
    char* piece = out + begin * to_size;
    tasks.push_back([=, from = source.dtype] {
      if (via == to || via == from) {
        cast_values(in, from, piece, to, count);
      } else {
        std::vector<uint16_t> rounded(static_cast<size_t>(count));
        cast_values(in, from, rounded.data(), via, count);
        cast_values(rounded.data(), via, piece, to, count);
      }
    });
  }
}

void add_transpose(Tasks& tasks, const Tensor& source, char* out, DType to) {
  int64_t k = source.dim(1), n = source.dim(2);
  int64_t step = std::clamp<int64_t>(kTaskValues / std::max<int64_t>(k, 1), 32, std::max<int64_t>(n, 32));
  for (int64_t e = 0; e < source.dim(0); ++e) {
    TransposeArgs args{.src = source.as<char>() + e * k * n * dtype_size(source.dtype),
                       .from = source.dtype,
                       .dst = out + e * k * n * dtype_size(to),
                       .to = to,
                       .n = n,
                       .k = k};
    for (int64_t begin = 0; begin < n; begin += step)
      tasks.push_back([=] { transpose_columns(args, begin, std::min(begin + step, n)); });
  }
}

void add_dequantize(Tasks& tasks, const Tensor& blocks, const Tensor& scales, char* out) {
  int64_t rows = blocks.dim(0) * blocks.dim(1), row_blocks = blocks.dim(2), k = row_blocks * kMxfp4Block;
  int64_t step = std::max<int64_t>(kTaskValues / std::max<int64_t>(k, 1), 1);
  for (int64_t begin = 0; begin < rows; begin += step) {
    tasks.push_back([=, codes = blocks.as<uint8_t>(), scale = scales.as<uint8_t>()] {
      int64_t count = std::min(step, rows - begin);  // rows are dense: one long row
      mxfp4_dequantize_row(codes + begin * row_blocks * kMxfp4BlockBytes, scale + begin * row_blocks, count * k,
                           reinterpret_cast<uint16_t*>(out) + begin * k);
    });
  }
}

}  // namespace

struct Checkpoint::Impl {
  std::string folder;
  Json config;
  Json generation_config = Json::object();
  std::optional<QuantizationConfig> quantization;
  std::optional<SafetensorsSet> tensors;
  Arena arena;
  bool loaded = false;

  // The bytes of a checkpoint's tensor; without files, an address that must not be touched.
  Tensor source(const CheckpointTensor& t) const;
  // Checks the plan against the files and says what would happen to every row, in the plan's order.
  std::vector<RowWork> plan_rows(const WeightPlan& plan, const LoadSettings& settings) const;
  void add_aliases(std::vector<RowWork>& rows) const;
  void bind_all(std::vector<RowWork>& rows, Tasks& tasks);
  // Points the row's target at its bytes; adds what is to be copied to the tasks.
  void bind(RowWork& work, Tasks& tasks);
  // Also notes the largest scale of each row.
  void check_scales(std::vector<RowWork>& rows, ThreadPool& pool) const;
  [[noreturn]] void fail_nan_scale(const RowWork& work, int64_t index) const;
};

Tensor Checkpoint::Impl::source(const CheckpointTensor& t) const {
  if (tensors) return *tensors->find(t.name);
  const DType stored = t.role == TensorRole::kPlain ? config_dtype(config) : DType::kU8;
  return {reinterpret_cast<void*>(kArenaAlign), t.shape, stored, Device{}};
}

std::vector<RowWork> Checkpoint::Impl::plan_rows(const WeightPlan& plan, const LoadSettings& settings) const {
  if (settings.dtype != DType::kF32 && settings.dtype != DType::kBF16 && settings.dtype != DType::kF16) {
    fail(ErrorCode::kInvalidArgument, "weights cannot be held as {}; expected float32, bfloat16 or float16",
         dtype_name(settings.dtype));
  }
  std::vector<CheckpointTensor> expected = checkpoint_tensors(plan, quantization);
  if (tensors) check_tensors(plan, expected, *tensors, folder);

  std::vector<RowWork> rows(plan.rows().size());
  for (size_t i = 0; i < rows.size(); ++i) {
    rows[i].row = &plan.rows()[i];
    rows[i].account.name = plan.rows()[i].name;
    rows[i].account.shape = plan.rows()[i].shape;
  }
  for (CheckpointTensor& t : expected) {
    rows[t.row].sources.push_back(source(t));
    rows[t.row].names.push_back(std::move(t.name));
  }
  for (RowWork& work : rows) {
    if (work.row->kind == RowKind::kAlias) continue;
    bool mxfp4 = is_stored_mxfp4(*work.row, quantization);
    if (mxfp4) {
      plan_mxfp4(work, settings);
    } else if (work.row->kind == RowKind::kVector) {
      plan_vector(work, settings);
    } else {
      plan_plain(work, settings);
    }
    LoadedRow& account = work.account;
    account.stored = mxfp4 ? "MXFP4" : dtype_name(work.sources[0].dtype);
    account.in_memory = work.mxfp4 ? "MXFP4" : dtype_name(work.dtype);
    account.file_bytes = sum_bytes(work.sources);
    account.mapped = work.action == Action::kMap;
    account.memory_bytes = account.mapped ? account.file_bytes : work.row->shape.numel() * dtype_size(work.dtype);
  }
  add_aliases(rows);
  return rows;
}

void Checkpoint::Impl::add_aliases(std::vector<RowWork>& rows) const {
  for (RowWork& work : rows) {
    if (work.row->kind != RowKind::kAlias) continue;
    auto shared = std::find_if(rows.begin(), rows.end(), [&](const RowWork& w) {
      return w.row->name == work.row->alias_of && w.row->kind != RowKind::kAlias && w.row->weight != nullptr;
    });
    TS_CHECK(shared != rows.end(), "{} shares {}, which is no weight of the plan", work.row->name, work.row->alias_of);
    work.action = Action::kAlias;
    work.account = shared->account;
    work.account.name = work.row->name;
    work.account.why = fmt::format("shares {}", work.row->alias_of);
    work.account.file_bytes = work.account.memory_bytes = 0;
  }
}

void Checkpoint::Impl::bind(RowWork& work, Tasks& tasks) {
  const WeightRow& row = *work.row;
  if (work.mxfp4) {
    *row.weight = Weight{.format = WeightFormat::kMxfp4,
                         .values = work.sources[0],
                         .scales = work.sources[1],
                         .max_scale = work.max_scale,
                         .experts = row.shape[0],
                         .n = row.shape[1],
                         .k = row.shape[2]};
    return;
  }
  Tensor values = work.action == Action::kMap ? work.sources[0] : arena.tensor(work.dtype, row.shape);
  char* out = values.as<char>();
  switch (work.action) {
    case Action::kCast:
      add_cast(tasks, work.sources[0], row.kind == RowKind::kVector ? work.via : work.dtype, out, work.dtype);
      break;
    case Action::kStack:
      for (const Tensor& source : work.sources) {
        add_cast(tasks, source, work.dtype, out, work.dtype);
        out += source.numel() * dtype_size(work.dtype);
      }
      break;
    case Action::kTranspose:
      add_transpose(tasks, work.sources[0], out, work.dtype);
      break;
    case Action::kDequantize:
      add_dequantize(tasks, work.sources[0], work.sources[1], out);
      break;
    case Action::kMap:
    case Action::kAlias:
      break;
  }
  if (row.tensor) {
    *row.tensor = values;
  } else {
    *row.weight = plain_weight(values, row);
  }
}

void Checkpoint::Impl::check_scales(std::vector<RowWork>& rows, ThreadPool& pool) const {
  struct Piece {
    size_t row;
    int64_t begin;
    std::span<const uint8_t> scales;
  };
  std::vector<Piece> pieces;
  for (size_t r = 0; r < rows.size(); ++r) {
    if (rows[r].account.stored != "MXFP4" || rows[r].action == Action::kAlias) continue;
    int64_t n = rows[r].sources[1].numel();
    for (int64_t begin = 0; begin < n; begin += kTaskValues) {
      const auto count = static_cast<size_t>(std::min(kTaskValues, n - begin));
      pieces.push_back({r, begin, {rows[r].sources[1].as<uint8_t>() + begin, count}});
    }
  }
  std::vector<uint8_t> largest(pieces.size());
  pool.parallel_for(static_cast<int64_t>(pieces.size()), 1, [&](int64_t begin, int64_t end, int) {
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

void Checkpoint::Impl::bind_all(std::vector<RowWork>& rows, Tasks& tasks) {
  for (RowWork& work : rows)
    if (work.action != Action::kAlias) bind(work, tasks);
  for (const RowWork& work : rows) {
    if (work.action != Action::kAlias) continue;
    for (const RowWork& shared : rows)
      if (shared.row->name == work.row->alias_of && shared.row->weight && shared.action != Action::kAlias)
        *work.row->weight = *shared.row->weight;
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
  std::vector<RowWork> rows = impl.plan_rows(plan, settings);
  impl.check_scales(rows, pool);

  int64_t capacity = 0;
  for (const RowWork& work : rows) capacity += (work.copy_bytes() + kArenaAlign - 1) / kArenaAlign * kArenaAlign;
  impl.arena = Arena(capacity);
  Tasks tasks;
  impl.bind_all(rows, tasks);
  parallel_tasks(pool, static_cast<int64_t>(tasks.size()), [&](int64_t i) { tasks[static_cast<size_t>(i)](); });
  impl.tensors->check_unchanged();
  impl.loaded = true;

  std::vector<LoadedRow> accounts;
  for (RowWork& work : rows) accounts.push_back(std::move(work.account));
  return accounts;
}

void Checkpoint::bind_shapes(const WeightPlan& plan, const LoadSettings& settings) {
  std::vector<RowWork> rows = impl_->plan_rows(plan, settings);
  impl_->arena = Arena::measuring();
  Tasks copies;  // never run
  impl_->bind_all(rows, copies);
}

std::vector<LoadedRow> Checkpoint::forecast(const WeightPlan& plan, const LoadSettings& settings) const {
  std::vector<LoadedRow> accounts;
  for (RowWork& work : impl_->plan_rows(plan, settings)) accounts.push_back(std::move(work.account));
  return accounts;
}

}  // namespace tessera
