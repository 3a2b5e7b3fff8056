#include "loading/row_work.h"

#include <algorithm>

#include "loading/cast.h"
#include "loading/checkpoint_tensors.h"

namespace tessera {

namespace {

constexpr int64_t kDenseGap = 4096;  // between pieces that are brought into memory together

// The type in memory of a plain weight stored as `stored`.
DType kept_dtype(DType stored, DType asked) {
  return changes_values(stored, asked) ? asked : stored;
}

constexpr const char* kApart = "not in one piece in the file";

void plan_vector(RowWork& work, const LoadSettings& settings) {
  const Tensor& source = work.sources[0];
  work.dtype = DType::kF32;
  work.via = kept_dtype(source.dtype, settings.dtype);
  bool as_is = source.dtype == DType::kF32 && work.via == DType::kF32 && work.parts[0].contiguous() &&
               is_aligned(part_of(source, work.parts[0], work.shape));
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
    const bool aligned = is_aligned(part_of(work.sources[0], work.parts[0], work.shape));
    const bool whole = work.parts[0].contiguous();
    work.action = work.dtype != stored ? Action::kCast : whole && aligned ? Action::kMap : Action::kCopy;
    if (work.action == Action::kCopy) why = whole ? "not aligned in the file" : kApart;
  }
  if (work.dtype != stored) why += fmt::format("{}rounded to {}", why.empty() ? "" : ", ", dtype_name(work.dtype));
  if (work.dtype != settings.dtype)
    why += fmt::format("{}the same values as {}", why.empty() ? "" : ", ", dtype_name(settings.dtype));
}

void plan_mxfp4(RowWork& work, const LoadSettings& settings) {
  work.expands = settings.dequantize && work.deferred(settings);
  work.mxfp4 = !settings.dequantize || work.expands;
  work.dtype = settings.dequantize ? DType::kBF16 : DType::kU8;
  const bool whole = work.parts[0].contiguous() && work.parts[1].contiguous();
  work.action = !work.mxfp4 ? Action::kDequantize : whole ? Action::kMap : Action::kCopy;
  if (work.action == Action::kCopy) work.account.why = kApart;
  if (settings.dequantize) {
    work.account.why = "dequantized";
    if (settings.dtype != DType::kBF16)
      work.account.why += fmt::format(", exact, so not {}", dtype_name(settings.dtype));
  }
}

// The bytes of a checkpoint's tensor; without files, an address that must not be touched.
Tensor source_of(const CheckpointTensor& t, const RowSource& from) {
  if (from.tensors) return *from.tensors->find(t.name);
  const DType stored = t.role == TensorRole::kPlain ? config_dtype(from.config) : DType::kU8;
  return {reinterpret_cast<void*>(DeferredRows::kAlign), t.shape, stored, Device{}};
}

// Which part of the row is this rank's, and where it lies in the sources.
void take_part(RowWork& work, bool mxfp4, const LoadSettings& settings) {
  const WeightRow& row = *work.row;
  const RowSlice whole = whole_of(row);
  work.slice = settings.mesh ? slice_of(row, *settings.mesh, settings.rank) : whole;
  const RowSlice& slice = work.slice;
  if (!slice.held) {
    work.action = Action::kNone;
    work.account.shape = {};
    return;
  }
  work.shape = work.account.shape = slice_shape(row, slice);
  if (row.kind == RowKind::kExperts && !mxfp4) return;  // transposed
  const int64_t experts = whole.experts.count, n = whole.rows.count, k = whole.columns.count;
  if (row.kind != RowKind::kExpertList) {
    for (const Tensor& source : work.sources) work.parts.push_back(strided_part(source, experts, n, k, slice));
    return;
  }
  const auto members = static_cast<int64_t>(row.members.size());
  const int64_t height = n / members;  // of a member
  for (int64_t e = slice.experts.begin; e < slice.experts.end(); ++e) {
    for (int64_t m = 0; m < members; ++m) {
      RowSlice part{.rows = {0, height}, .columns = slice.columns};
      if (slice.row_count() < n) part.rows = {slice.rows.begin, slice.row_count() / members};
      work.parts.push_back(strided_part(work.sources[static_cast<size_t>(e * members + m)], 1, height, k, part));
    }
  }
}

void add_aliases(std::vector<RowWork>& rows, const LoadSettings& settings) {
  for (RowWork& work : rows) {
    if (work.row->kind != RowKind::kAlias) continue;
    auto shared = std::find_if(rows.begin(), rows.end(), [&](const RowWork& w) {
      return w.row->name == work.row->alias_of && w.row->kind != RowKind::kAlias && w.row->weight != nullptr;
    });
    TS_CHECK(shared != rows.end(), "{} shares {}, which is no weight of the plan", work.row->name, work.row->alias_of);
    work.action = Action::kAlias;
    work.account = shared->account;
    work.account.name = work.row->name;
    work.slice = shared->slice;
    if (settings.mesh) work.slice.rows = vocabulary_share(shared->row->shape[0], *settings.mesh, settings.rank);
    work.account.why = fmt::format("shares {}", work.row->alias_of);
    work.account.file_bytes = work.account.memory_bytes = 0;
  }
}

}  // namespace

Tensor part_of(const Tensor& source, const Strided& part, Shape shape) {
  return {const_cast<char*>(part.base), shape, source.dtype, source.device};
}

std::vector<RowWork> plan_rows(const WeightPlan& plan, const LoadSettings& settings, const RowSource& from) {
  if (settings.dtype != DType::kF32 && settings.dtype != DType::kBF16 && settings.dtype != DType::kF16) {
    fail(ErrorCode::kInvalidArgument, "weights cannot be held as {}; expected float32, bfloat16 or float16",
         dtype_name(settings.dtype));
  }
  std::vector<CheckpointTensor> expected = checkpoint_tensors(plan, from.quantization);
  if (from.tensors) check_tensors(plan, expected, *from.tensors, from.folder);

  std::vector<RowWork> rows(plan.rows().size());
  for (size_t i = 0; i < rows.size(); ++i) {
    rows[i].row = &plan.rows()[i];
    rows[i].account.name = plan.rows()[i].name;
    rows[i].account.shape = plan.rows()[i].shape;
  }
  for (CheckpointTensor& t : expected) {
    rows[t.row].sources.push_back(source_of(t, from));
    rows[t.row].names.push_back(std::move(t.name));
  }
  for (RowWork& work : rows) {
    if (work.row->kind == RowKind::kAlias) continue;
    bool mxfp4 = is_stored_mxfp4(*work.row, from.quantization);
    take_part(work, mxfp4, settings);
    if (!work.slice.held) {
      work.account.stored = mxfp4 ? "MXFP4" : dtype_name(work.sources[0].dtype);
      work.account.in_memory = "none";
      work.account.why = "another rank holds it";
      continue;
    }
    if (mxfp4) {
      plan_mxfp4(work, settings);
    } else if (work.row->kind == RowKind::kVector) {
      plan_vector(work, settings);
    } else {
      plan_plain(work, settings);
    }
    LoadedRow& account = work.account;
    account.stored = mxfp4 ? "MXFP4" : dtype_name(work.sources[0].dtype);
    account.in_memory = work.mxfp4 && !work.expands ? "MXFP4" : dtype_name(work.dtype);
    account.file_bytes = 0;
    for (const Strided& part : work.parts) account.file_bytes += part.bytes();
    if (work.action == Action::kTranspose) account.file_bytes = work.shape.numel() * dtype_size(work.sources[0].dtype);
    account.mapped = work.action == Action::kMap && !work.expands;
    const bool as_stored = (account.mapped || work.action == Action::kCopy) && !work.expands;
    account.memory_bytes = as_stored ? account.file_bytes : work.shape.numel() * dtype_size(work.dtype);
  }
  add_aliases(rows, settings);
  return rows;
}

RowForm form_of(const RowWork& work, size_t i) {
  switch (work.action) {
    case Action::kCopy:
      return copied_form(work.parts[i]);
    case Action::kCast:
      return cast_form(work.parts[0], work.sources[0].dtype, work.row->kind == RowKind::kVector ? work.via : work.dtype,
                       work.dtype);
    case Action::kStack: {
      const size_t first = static_cast<size_t>(work.slice.experts.begin) * work.row->members.size();
      std::vector<CastPart> parts;
      for (size_t p = 0; p < work.parts.size(); ++p) parts.push_back({work.parts[p], work.sources[first + p].dtype});
      return stacked_form(std::move(parts), work.dtype);
    }
    case Action::kTranspose:
      return transposed_form(work.sources[0], work.slice, work.dtype);
    case Action::kDequantize:
      return dequantized_form(work.parts[0], work.parts[1], work.shape[2]);
    default:
      TS_CHECK(false, "{} is not made", work.row->name);
  }
}

std::vector<MappedRange> held_ranges(const std::vector<RowWork>& rows, bool made) {
  std::vector<MappedRange> ranges;
  for (const RowWork& work : rows) {
    if (work.action == Action::kNone || work.action == Action::kAlias || (work.made() && !made)) continue;
    if (work.action == Action::kTranspose) {  // its slice has pieces of every line of an expert
      const Tensor held = work.sources[0].rows(work.slice.experts.begin, work.slice.experts.count);
      ranges.push_back({held.as<char>(), held.bytes()});
      continue;
    }
    for (const Strided& part : work.parts) {
      const bool dense = part.contiguous() || part.stride - part.run < kDenseGap;
      if (part.count > 0 && dense) ranges.push_back({part.base, (part.count - 1) * part.stride + part.run});
      for (int64_t i = 0; i < part.count && !dense; ++i) ranges.push_back({part.base + i * part.stride, part.run});
    }
  }
  return ranges;
}

}  // namespace tessera
