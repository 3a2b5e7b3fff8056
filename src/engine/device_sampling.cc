#include "engine/device_sampling.h"

#include <algorithm>
#include <cstring>

namespace tessera {

struct DeviceSampling::Buffers {
  Tensor settings, edit_start, edits, masks;    // in
  Tensor ids, logprobs, top_ids, top_logprobs;  // out

  // Lays the operands out behind `base`, or nowhere when it is null; returns their bytes.
  int64_t place(char* base, Device device, int64_t rows, int64_t vocab) {
    int64_t used = 0;
    auto take = [&](Tensor& t, DType dtype, Shape shape) {
      t = {base ? base + used : nullptr, shape, dtype, device};
      used += (t.bytes() + 255) / 256 * 256;
    };
    take(settings, DType::kU8, {rows, sizeof(SampleSettings)});
    take(edit_start, DType::kI32, {rows + 1});
    take(edits, DType::kU8, {kMaxEdits, sizeof(LogitEdit)});
    take(masks, DType::kI32, {rows, (vocab + 31) / 32});
    take(ids, DType::kI32, {rows});
    take(logprobs, DType::kF32, {rows});
    take(top_ids, DType::kI32, {rows, kMaxSampleLogprobs});
    take(top_logprobs, DType::kF32, {rows, kMaxSampleLogprobs});
    return used;
  }
};

DeviceSampling::DeviceSampling(DeviceContext& context, const Kernels& kernels, int64_t max_rows, int64_t vocab_size,
                               const LogitColumns& columns)
    : context_(context),
      kernels_(kernels),
      max_rows_(max_rows),
      vocab_size_(vocab_size),
      columns_(columns),
      host_{std::make_unique<Buffers>(), std::make_unique<Buffers>()},
      device_(std::make_unique<Buffers>()) {
  const int64_t bytes = device_->place(nullptr, {}, max_rows, vocab_size);
  arena_ = Arena(context, bytes);
  device_->place(static_cast<char*>(arena_.allocate(bytes)), context.device(), max_rows, vocab_size);
  pinned_ = context.allocate_host(2 * bytes);
  for (int turn : {0, 1}) host_[turn]->place(static_cast<char*>(pinned_) + turn * bytes, {}, max_rows, vocab_size);
}

DeviceSampling::~DeviceSampling() {
  context_.release_host(pinned_);
}

SampleArgs DeviceSampling::arguments(const Buffers& at, int64_t rows) const {
  SampleArgs a;
  a.settings = at.settings.rows(0, rows);
  a.edit_start = at.edit_start.rows(0, rows + 1);
  a.edits = at.edits;
  a.masks = at.masks;
  a.ids = at.ids.rows(0, rows);
  a.logprobs = at.logprobs.rows(0, rows);
  a.top_ids = at.top_ids.rows(0, rows);
  a.top_logprobs = at.top_logprobs.rows(0, rows);
  return a;
}

int64_t DeviceSampling::workspace_bytes() const {
  int64_t bytes = 0;
  for (int64_t rows : {int64_t{1}, max_rows_}) {
    SampleArgs a = arguments(*device_, rows);
    a.logits = {nullptr, {rows, vocab_size_}, DType::kF32, context_.device()};
    a.any_logprobs = true;
    const KernelRow<SampleArgs>* row = kernels_.sample.choose(a);
    TS_CHECK(row != nullptr, "no kernel of sample accepts the arguments");
    if (row->workspace) bytes = std::max(bytes, row->workspace(a));
    if (columns_.over == nullptr) continue;
    a.logits.shape = {rows, columns_.width};
    a.any_cut = a.any_logprobs = false;
    a.edit_start = a.edits = a.masks = {};
    const SamplePartsArgs parts = part_arguments(a);
    const KernelRow<SamplePartsArgs>* in_parts = kernels_.sample_parts.choose(parts);
    TS_CHECK(in_parts != nullptr, "no kernel of sample_parts accepts the arguments");
    if (in_parts->workspace) bytes = std::max(bytes, in_parts->workspace(parts));
  }
  return bytes;
}

SamplePartsArgs DeviceSampling::part_arguments(const SampleArgs& sample) const {
  return {.sample = sample,
          .first = columns_.first,
          .widest = columns_.widest,
          .vocab_size = vocab_size_,
          .communicator = columns_.over};
}

void DeviceSampling::enqueue_parts(const Tensor& logits, std::span<const SampleSettings> settings, int turn,
                                   Stream& stream) {
  const auto count = static_cast<int64_t>(settings.size());
  const Buffers &to = *device_, &from = *host_[turn];
  SampleArgs a = arguments(to, count);
  a.logits = logits;
  a.any_random = a.any_cut = a.any_logprobs = false;
  a.edit_start = a.edits = a.masks = {};
  for (const SampleSettings& s : settings) {
    TS_CHECK(samples_parts(s));
    a.any_random |= s.temperature > 0;
  }
  std::memcpy(from.settings.data, settings.data(), settings.size_bytes());
  send(to.settings, from.settings, a.settings.bytes());
  const SamplePartsArgs parts = part_arguments(a);
  kernels_.sample_parts.choose(parts)->launch(parts, stream);
  context_.to_host(from.ids.data, to.ids.data, a.ids.bytes());
  ids_ = a.ids;
}

void DeviceSampling::send(const Tensor& to, const Tensor& from, int64_t bytes) {
  if (bytes > 0) context_.to_device(to.data, from.data, bytes);
}

void DeviceSampling::enqueue(const Tensor& logits, std::span<const RowSampling> rows, int turn, Stream& stream) {
  const auto count = static_cast<int64_t>(rows.size());
  int64_t edits = 0, masks = 0;
  for (const RowSampling& row : rows) edits += static_cast<int64_t>(row.edits.size());
  TS_CHECK(edits <= kMaxEdits && count <= max_rows_ && logits.dim(0) == count);

  const Buffers &to = *device_, &from = *host_[turn];
  SampleArgs a = arguments(to, count);
  a.logits = logits;
  a.any_random = a.any_cut = a.any_logprobs = false;
  int32_t edit = 0;
  for (int64_t r = 0; r < count; ++r) {
    const RowSampling& row = rows[static_cast<size_t>(r)];
    SampleSettings settings = row.settings;
    settings.mask = -1;
    if (!row.mask.empty()) {
      settings.mask = static_cast<int32_t>(masks++);
      std::memcpy(from.masks.rows(settings.mask, 1).data, row.mask.data(), row.mask.size_bytes());
    }
    a.any_random |= settings.temperature > 0;
    a.any_cut |= settings.top_p < 1 || settings.top_k > 0;
    a.any_logprobs |= settings.logprobs >= 0;
    std::memcpy(from.settings.rows(r, 1).data, &settings, sizeof settings);
    from.edit_start.i32()[r] = edit;
    if (!row.edits.empty()) std::memcpy(from.edits.rows(edit, 1).data, row.edits.data(), row.edits.size_bytes());
    edit += static_cast<int32_t>(row.edits.size());
  }
  from.edit_start.i32()[count] = edit;
  if (edits == 0) a.edit_start = a.edits = {};
  if (masks == 0) a.masks = {};

  send(to.settings, from.settings, a.settings.bytes());
  if (edits > 0) send(to.edit_start, from.edit_start, a.edit_start.bytes());
  send(to.edits, from.edits, edits * int64_t{sizeof(LogitEdit)});
  send(to.masks, from.masks, masks * ((vocab_size_ + 31) / 32) * int64_t{sizeof(int32_t)});
  kernels_.sample.choose(a)->launch(a, stream);
  context_.to_host(from.ids.data, to.ids.data, a.ids.bytes());
  ids_ = a.ids;
  if (a.any_logprobs) {
    context_.to_host(from.logprobs.data, to.logprobs.data, a.logprobs.bytes());
    context_.to_host(from.top_ids.data, to.top_ids.data, a.top_ids.bytes());
    context_.to_host(from.top_logprobs.data, to.top_logprobs.data, a.top_logprobs.bytes());
  }
}

SampledRows DeviceSampling::result(int turn) const {
  const Buffers& host = *host_[turn];
  return {host.ids.i32(), host.logprobs.f32(), host.top_ids.i32(), host.top_logprobs.f32()};
}

}  // namespace tessera
