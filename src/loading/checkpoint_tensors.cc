#include "loading/checkpoint_tensors.h"

#include <unordered_set>

#include "loading/name_list.h"
#include "loading/strict_json.h"
#include "quant/mxfp4.h"

namespace tessera {

namespace {

constexpr int64_t kMaxTensors = int64_t{1} << 20;  // twenty times the largest published model

void add_experts(const WeightRow& row, size_t index, bool mxfp4, std::vector<CheckpointTensor>& out) {
  int64_t e = row.shape[0], n = row.shape[1], k = row.shape[2];
  if (!mxfp4) {
    out.push_back({row.name, {e, k, n}, TensorRole::kPlain, index});
    return;
  }
  if (k % kMxfp4Block != 0) {
    fail(ErrorCode::kUnsupported,
         "{}: {} inputs are no multiple of {}, which MXFP4 needs; check hidden_size and intermediate_size", row.name, k,
         kMxfp4Block);
  }
  out.push_back({row.name + "_blocks", {e, n, k / kMxfp4Block, kMxfp4BlockBytes}, TensorRole::kBlocks, index});
  out.push_back({row.name + "_scales", {e, n, k / kMxfp4Block}, TensorRole::kScales, index});
}

void add_expert_list(const WeightRow& row, size_t index, std::vector<CheckpointTensor>& out) {
  auto members = static_cast<int64_t>(row.members.size());
  TS_CHECK(members > 0 && row.shape[1] % members == 0, "{}: {} outputs in {} members", row.name, row.shape[1], members);
  for (int64_t e = 0; e < row.shape[0]; ++e) {
    for (const std::string& member : row.members) {
      std::string name = fmt::format("{}.{}.{}.weight", row.name, e, member);
      out.push_back({std::move(name), {row.shape[1] / members, row.shape[2]}, TensorRole::kPlain, index});
    }
  }
}

// Sizes come from config.json: bounded before anything is multiplied or listed. 8 bytes is the widest element.
void check_size(const WeightRow& row, int64_t& total_bytes, int64_t& total_tensors) {
  int64_t bytes = 8;
  bool overflow = false;
  for (int i = 0; i < row.shape.rank(); ++i) overflow |= __builtin_mul_overflow(bytes, row.shape[i], &bytes);
  if (overflow || __builtin_add_overflow(total_bytes, bytes, &total_bytes))
    fail(ErrorCode::kCorrupt, "config.json: {} would be {}, more bytes than 63 bits can count", row.name,
         row.shape.str());
  total_tensors += row.kind == RowKind::kExpertList ? row.shape[0] * static_cast<int64_t>(row.members.size()) : 2;
  if (total_tensors > kMaxTensors)
    fail(ErrorCode::kUnsupported,
         "config.json: asks for more than {} tensors; check num_hidden_layers and the number of experts", kMaxTensors);
}

bool dtype_fits(TensorRole role, DType dtype) {
  if (role != TensorRole::kPlain) return dtype == DType::kU8;
  return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16;
}

const char* dtype_wanted(TensorRole role) {
  return role == TensorRole::kPlain ? "BF16, F16 or F32" : "U8";
}

}  // namespace

bool is_stored_mxfp4(const WeightRow& row, const std::optional<QuantizationConfig>& quantization) {
  return row.quantizable && quantization && quantization->converts(row.name);
}

std::vector<CheckpointTensor> checkpoint_tensors(const WeightPlan& plan,
                                                 const std::optional<QuantizationConfig>& quantization) {
  std::vector<CheckpointTensor> out;
  int64_t total_bytes = 0, total_tensors = 0;
  for (size_t i = 0; i < plan.rows().size(); ++i) {
    const WeightRow& row = plan.rows()[i];
    check_size(row, total_bytes, total_tensors);
    switch (row.kind) {
      case RowKind::kVector:
      case RowKind::kMatrix:
        out.push_back({row.name, row.shape, TensorRole::kPlain, i});
        break;
      case RowKind::kExperts:
        add_experts(row, i, is_stored_mxfp4(row, quantization), out);
        break;
      case RowKind::kExpertList:
        add_expert_list(row, i, out);
        break;
      case RowKind::kAlias:
        break;
    }
  }
  return out;
}

void check_tensors(const WeightPlan& plan, const std::vector<CheckpointTensor>& expected, const SafetensorsSet& found,
                   const std::string& folder) {
  std::unordered_set<std::string_view> known;
  for (const WeightRow& row : plan.rows())
    if (row.kind == RowKind::kAlias) known.insert(row.name);

  NameList missing, unexpected, shapes, dtypes;
  bool other_form = false;  // experts plain where MXFP4 was expected, or the reverse
  for (const CheckpointTensor& t : expected) {
    known.insert(t.name);
    std::optional<Tensor> tensor = found.find(t.name);
    if (!tensor) {
      missing.add(fmt::format("{} {}", t.name, t.shape.str()));
      const WeightRow& row = plan.rows()[t.row];
      other_form |= row.quantizable && (found.find(row.name) || found.find(row.name + "_blocks"));
    } else if (!(tensor->shape == t.shape)) {
      shapes.add(fmt::format("{} is {}, expected {}", t.name, tensor->shape.str(), t.shape.str()));
    } else if (!dtype_fits(t.role, tensor->dtype)) {
      dtypes.add(fmt::format("{} is {}, expected {}", t.name, dtype_name(tensor->dtype), dtype_wanted(t.role)));
    }
  }
  for (const SafetensorsFile& file : found.files())
    for (const TensorInfo& info : file.tensors())
      if (!known.contains(info.name) && !info.name.ends_with(".rotary_emb.inv_freq"))
        unexpected.add(printable(info.name));

  std::string message;
  auto report = [&](const NameList& names, const char* what) {
    if (!names.empty())
      message += fmt::format("{}{} {}: {}", message.empty() ? "" : "; ", names.count(), what, names.str());
  };
  report(missing, "missing");
  report(unexpected, "unexpected");
  report(shapes, "of wrong shape");
  report(dtypes, "of wrong dtype");
  if (message.empty()) return;
  if (other_form) message += "; experts are not stored as the quantization_config of config.json says";
  fail(ErrorCode::kCorrupt, "{}: the tensors do not fit config.json: {}", folder, message);
}

}  // namespace tessera
