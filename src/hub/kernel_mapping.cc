#include "hub/kernel_mapping.h"

#include <algorithm>
#include <array>
#include <span>

#include "core/error.h"
#include "hub/hub_id.h"
#include "hub/json_reader.h"

namespace tessera::hub {

namespace {

constexpr int64_t kMaxMappingBytes = int64_t{4} << 20;
constexpr int kMaxCapability = 10'000;
constexpr size_t kMaxName = 200;
constexpr const char* kDevices[] = {"cpu", "cuda", "rocm", "xpu", "npu", "mps", "neuron", "tpu"};

// As in transformers' hub_kernels.py.
constexpr const char* kDefault = R"({
  "RMSNorm": {
    "cuda": {"repo": "kernels-community/liger-kernels", "version": 3, "layer": "LigerRMSNorm"},
    "rocm": {"repo": "kernels-community/liger-kernels", "version": 3, "layer": "LigerRMSNorm"},
    "npu": {"repo": "kernels-community/liger-kernels", "version": 3, "layer": "LigerRMSNorm"},
    "xpu": {"repo": "kernels-community/rmsnorm", "version": 1, "layer": "RMSNorm"},
    "mps": {"repo": "kernels-community/mlx_rmsnorm", "revision": "main", "layer": "RMSNorm"}
  },
  "MegaBlocksMoeMLP": {
    "cuda": [{"repo": "kernels-community/megablocks", "version": 1, "mode": "training"},
             {"repo": "kernels-community/megablocks", "version": 1, "mode": "inference"}],
    "rocm": [{"repo": "kernels-community/megablocks", "version": 1, "mode": "training"},
             {"repo": "kernels-community/megablocks", "version": 1, "mode": "inference"}],
    "xpu": {"repo": "kernels-community/megablocks", "version": 1, "mode": "inference"},
    "cpu": {"repo": "kernels-community/megablocks", "version": 1, "layer": "CPUMegaBlocksMoeMLP"}
  },
  "rotary_pos_emb": {
    "cuda": {"repo": "kernels-community/rotary", "version": 2, "layer": "apply_rotary_transformers"},
    "rocm": {"repo": "kernels-community/aiter-rope", "revision": "main", "layer": "apply_rotary_transformers"}
  },
  "SiLU": {"cuda": {"repo": "kernels-community/activation", "version": 1, "layer": "Silu"}},
  "GeLU": {"cuda": {"repo": "kernels-community/activation", "version": 1, "layer": "Gelu"}},
  "GeluTanh": {"cuda": {"repo": "kernels-community/activation", "version": 1, "layer": "GeluTanh"}},
  "FastGELU": {"cuda": {"repo": "kernels-community/activation", "version": 1}},
  "QuickGELU": {"cuda": {"repo": "kernels-community/activation", "version": 1}},
  "NewGELU": {"cuda": {"repo": "kernels-community/activation", "version": 1}},
  "flash_attention_2": {"cuda": {"repo": "kernels-community/flash-attn2", "version": 3}},
  "flash_attention_3": {
    "cuda": {"repo": "kernels-community/vllm-flash-attn3", "revision": "main"},
    "rocm": {"repo": "kernels-community/aiter-flash-attn", "revision": "main"}
  }
})";

// A layer's or function's name: letters, digits and '_', '.', '-'.
bool is_name(std::string_view name) {
  return !name.empty() && name.size() <= kMaxName && std::ranges::all_of(name, [](unsigned char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '.' ||
           c == '-';
  });
}

KernelMode parse_mode(const std::string& text, const std::string& where) {
  for (KernelMode mode : {KernelMode::kFallback, KernelMode::kInference, KernelMode::kTraining})
    if (text == mode_name(mode)) return mode;
  fail(ErrorCode::kCorrupt, "{}: mode '{}'; expected inference, training or fallback", where, shown(text));
}

void parse_interval(MappingRow& row, const Json& pair, const std::string& where) {
  if (row.device != "cuda" && row.device != "rocm")
    fail(ErrorCode::kCorrupt, "{}: \"capability\" is known of cuda and rocm only", where);
  auto whole = [](const Json& v) { return v.is_number_unsigned() && v.get<uint64_t>() <= kMaxCapability; };
  if (!pair.is_array() || pair.size() != 2 || !whole(pair[0]) || !whole(pair[1]) ||
      pair[0].get<int>() > pair[1].get<int>())
    fail(ErrorCode::kCorrupt, "{}: \"capability\" is no pair [MIN, MAX], as [80, 90]", where);
  row.min_capability = pair[0].get<int>();
  row.max_capability = pair[1].get<int>();
}

// Exactly one of "version" and "revision".
KernelDependency parse_version(const std::string& repo, const JsonReader& in, const std::string& where) {
  KernelDependency kernel{
      .repo = repo, .version = std::nullopt, .revision = in.optional_string("revision").value_or("")};
  if (in.find("version")) kernel.version = in.natural("version");
  if (kernel.version.has_value() == !kernel.revision.empty())
    fail(ErrorCode::kCorrupt, "{}: {} needs either \"version\" or \"revision\"", where, shown(repo));
  if (!kernel.version && !is_revision(kernel.revision))
    fail(ErrorCode::kCorrupt, "{}: '{}' is no branch, tag or commit", where, shown(kernel.revision));
  return kernel;
}

void parse_string_row(MappingRow& row, const std::string& text, const std::string& where) {
  std::optional<KernelString> kernel = parse_kernel_string(text);
  if (!kernel) fail(ErrorCode::kCorrupt, "{}: '{}': expected ORG/NAME[@REVISION][:LAYER]", where, shown(text));
  row.kernel = kernel->kernel;
  if (!kernel->function.empty()) row.function = kernel->function;
}

void parse_object_row(MappingRow& row, const Json& value, const std::string& where) {
  JsonReader in(value, where);
  in.only({"repo", "version", "revision", "layer", "function", "capability", "mode"});
  row.kernel = parse_version(in.string("repo"), in, where);
  if (!is_repo_name(row.kernel.repo) || row.kernel.repo.find('/') == std::string::npos)
    fail(ErrorCode::kCorrupt, "{}: '{}' is no repository; expected ORG/NAME", where, shown(row.kernel.repo));
  row.function = in.optional_string("layer").value_or(in.optional_string("function").value_or(row.function));
  row.mode = parse_mode(in.optional_string("mode").value_or(mode_name(row.mode)), where);
  if (const Json* pair = in.find("capability")) parse_interval(row, *pair, where);
}

// ["ORG/NAME:LAYER", {"version": N}], as Python's KernelConfig has it.
bool is_pair_row(const Json& value) {
  return value.is_array() && value.size() == 2 && value[0].is_string() && value[1].is_object() &&
         !value[1].contains("repo");
}

MappingRow parse_row(const std::string& layer, const std::string& device, const Json& value, const std::string& where) {
  MappingRow row{.layer = layer, .device = device, .function = layer};
  if (value.is_string()) {
    parse_string_row(row, value.get<std::string>(), where);
  } else if (is_pair_row(value)) {
    parse_string_row(row, value[0].get<std::string>(), where);
    JsonReader in(value[1], where);
    in.only({"version", "revision", "trust_remote_code"});
    row.kernel = parse_version(row.kernel.repo, in, where);
  } else {
    parse_object_row(row, value, where);
  }
  if (!is_name(row.function))
    fail(ErrorCode::kCorrupt, "{}: '{}' is no layer's name; expected letters, digits and '_'", where,
         shown(row.function));
  return row;
}

bool is_row(const Json& value) {
  return value.is_string() || value.is_array() || (value.is_object() && value.contains("repo"));
}

void parse_device(KernelMapping& mapping, const std::string& layer, const std::string& device, const Json& value,
                  const std::string& where) {
  if (!value.is_array() || is_pair_row(value)) {
    mapping.rows.push_back(parse_row(layer, device, value, where));
    return;
  }
  for (const Json& row : value) mapping.rows.push_back(parse_row(layer, device, row, where));
}

// The modes that serve `mode`, best first.
std::span<const KernelMode> serving(KernelMode mode) {
  static constexpr std::array kInference{KernelMode::kInference, KernelMode::kTraining, KernelMode::kFallback};
  std::span<const KernelMode> all = kInference;
  return mode == KernelMode::kInference ? all : mode == KernelMode::kTraining ? all.subspan(1) : all.subspan(2);
}

std::string no_row(const KernelMapping& mapping, const std::string& layer, const std::string& device, int capability,
                   KernelMode mode, bool in_interval) {
  const bool named = std::ranges::any_of(mapping.rows, [&](const MappingRow& r) { return r.layer == layer; });
  if (!named) return fmt::format("No kernel mapping found for layer `{}`", layer);
  const bool on_device = std::ranges::any_of(
      mapping.rows, [&](const MappingRow& r) { return r.layer == layer && (r.device.empty() || r.device == device); });
  if (!on_device) return fmt::format("No layer mapping for `{}` with device type `{}`", layer, device);
  if (!in_interval)
    return fmt::format("No layer mapping for `{}` device `{}` with capability {}", layer, device, capability);
  return fmt::format("No repository for `{}` for mode {}", layer, mode_name(mode));
}

}  // namespace

const char* mode_name(KernelMode mode) {
  return mode == KernelMode::kInference ? "inference" : mode == KernelMode::kTraining ? "training" : "fallback";
}

std::string MappingRow::text() const {
  std::string text = layer + " " + (device.empty() ? "any device" : device);
  if (has_interval()) text += fmt::format(" {}-{}", min_capability, max_capability);
  return text + fmt::format(" {}: {} {}", mode_name(mode), kernel.text(), function);
}

KernelMapping parse_kernel_mapping(std::string_view json, const std::string& where) {
  const Json object = parse_foreign_json(json, where, kMaxMappingBytes);
  if (!object.is_object()) fail(ErrorCode::kCorrupt, "{}: expected a JSON object of layers", where);
  KernelMapping mapping;
  for (const auto& [layer, value] : object.items()) {
    if (!is_name(layer)) fail(ErrorCode::kCorrupt, "{}: '{}' is no layer's name", where, shown(layer));
    const std::string here = where + ": " + layer;
    if (is_row(value)) {
      parse_device(mapping, layer, "", value, here);
      continue;
    }
    if (!value.is_object()) fail(ErrorCode::kCorrupt, "{}: expected an object of devices", here);
    for (const auto& [device, rows] : value.items()) {
      if (std::ranges::find(kDevices, device) == std::end(kDevices))
        fail(ErrorCode::kCorrupt, "{}: '{}' is no device; expected one of {}", here, shown(device),
             fmt::join(kDevices, ", "));
      parse_device(mapping, layer, device, rows, here + "." + device);
    }
  }
  return mapping;
}

KernelMapping read_kernel_mapping(const std::string& path) {
  return parse_kernel_mapping(read_text_file(path, kMaxMappingBytes), path);
}

KernelMapping default_kernel_mapping() {
  return parse_kernel_mapping(kDefault, "the default mapping");
}

MappingChoice choose_kernel(const KernelMapping& mapping, const std::string& layer, const std::string& device,
                            int capability, KernelMode mode) {
  std::vector<const MappingRow*> rows;  // of the layer, for this device and capability
  for (const MappingRow& row : mapping.rows) {
    const bool contains = capability == 0 || (row.min_capability <= capability && capability <= row.max_capability);
    if (row.layer == layer && (row.device.empty() || row.device == device) && contains) rows.push_back(&row);
  }
  auto width = [](const MappingRow* row) { return row->max_capability - row->min_capability; };
  // Of equal intervals the later row's counts.
  const MappingRow* smallest = nullptr;
  for (const MappingRow* row : rows) {
    const bool nearer = smallest && row->device.empty() != smallest->device.empty();
    if (!smallest || (nearer ? smallest->device.empty() : width(row) <= width(smallest))) smallest = row;
  }
  for (KernelMode wanted : serving(mode)) {
    const MappingRow* found = nullptr;
    for (const MappingRow* row : rows) {
      const bool same = row->device == smallest->device && row->min_capability == smallest->min_capability &&
                        row->max_capability == smallest->max_capability;
      if (same && row->mode == wanted) found = row;
    }
    if (found) return {found, ""};
  }
  return {nullptr, no_row(mapping, layer, device, capability, mode, !rows.empty())};
}

std::string using_line(const MappingRow& row) {
  return fmt::format("Using layer `{}` from repo `{}`", row.function, row.kernel.repo);
}

std::optional<KernelString> parse_kernel_string(std::string_view text) {
  KernelString out;
  const size_t colon = text.find(':');
  if (colon != text.npos) {
    out.function = text.substr(colon + 1);
    if (!is_name(out.function)) return std::nullopt;
  }
  const std::optional<HubId> id = parse_hub_id(text.substr(0, colon));
  if (!id) return std::nullopt;
  out.kernel = {.repo = id->repo, .version = std::nullopt, .revision = id->revision};
  return out;
}

}  // namespace tessera::hub
