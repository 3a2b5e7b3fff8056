#include "hub/kernel_repo.h"

#include <sys/utsname.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <tuple>

#include "core/error.h"
#include "hub/content_hash.h"
#include "hub/hub_id.h"

namespace tessera::hub {

namespace {

constexpr size_t kMaxNumber = 6;                 // digits of a version's part
constexpr MajorMinor kMetalMacos{26, 0};         // Metal kernels are built for Metal 4
constexpr const char* kUniversal = "universal";  // of noarch variants: any backend

struct BackendRow {
  KernelBackend kind;
  const char* name;
  const char* tag;  // in a variant's name
  bool versioned;
};
constexpr BackendRow kBackends[] = {
    {KernelBackend::kCpu, "cpu", "cpu", false},          {KernelBackend::kCuda, "cuda", "cu", true},
    {KernelBackend::kRocm, "rocm", "rocm", true},        {KernelBackend::kXpu, "xpu", "xpu", true},
    {KernelBackend::kCann, "cann", "cann", true},        {KernelBackend::kMetal, "metal", "metal", false},
    {KernelBackend::kNeuron, "neuron", "neuron", false}, {KernelBackend::kTpu, "tpu", "tpu", false},
};

const BackendRow& row_of(KernelBackend kind) {
  const auto row = std::ranges::find(kBackends, kind, &BackendRow::kind);
  TS_CHECK(row != std::end(kBackends));
  return *row;
}

std::optional<int> number(std::string_view digits) {
  int value = 0;
  if (digits.empty() || digits.size() > kMaxNumber) return std::nullopt;
  auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc() || end != digits.data() + digits.size() || value < 0) return std::nullopt;
  return value;
}

// "212" as 2.12: the major version is one digit.
std::optional<MajorMinor> one_digit_major(std::string_view digits) {
  if (digits.size() < 2) return std::nullopt;
  auto major = number(digits.substr(0, 1)), minor = number(digits.substr(1));
  return major && minor ? std::optional(MajorMinor{*major, *minor}) : std::nullopt;
}

// "130" as 13.0: the minor version is one digit.
std::optional<MajorMinor> one_digit_minor(std::string_view digits) {
  if (digits.size() < 2) return std::nullopt;
  auto major = number(digits.substr(0, digits.size() - 1)), minor = number(digits.substr(digits.size() - 1));
  return major && minor ? std::optional(MajorMinor{*major, *minor}) : std::nullopt;
}

std::optional<BackendSpec> parse_backend(std::string_view text) {
  for (const BackendRow& row : kBackends) {
    if (!row.versioned && text == row.tag) return BackendSpec{row.kind, {}};
    if (!row.versioned || !text.starts_with(row.tag)) continue;
    auto version = one_digit_minor(text.substr(std::string_view(row.tag).size()));
    return version ? std::optional(BackendSpec{row.kind, *version}) : std::nullopt;
  }
  return std::nullopt;
}

std::vector<std::string_view> split(std::string_view text, char at) {
  std::vector<std::string_view> parts;
  for (size_t end; (end = text.find(at)) != text.npos; text.remove_prefix(end + 1))
    parts.push_back(text.substr(0, end));
  parts.push_back(text);
  return parts;
}

// BACKEND-CPU-OS, the last three parts.
bool parse_arch(KernelVariant& variant, const std::vector<std::string_view>& parts, size_t from) {
  if (parts.size() != from + 3) return false;
  std::optional<BackendSpec> backend = parse_backend(parts[from]);
  if (!backend) return false;
  variant.backend = *backend;
  variant.cpu = parts[from + 1];
  variant.os = parts[from + 2];
  return true;
}

template <class T>
std::string or_none(const std::optional<T>& value) {
  return value ? value->text() : "None";
}

std::string or_none(const std::optional<bool>& value) {
  return !value ? "None" : *value ? "True" : "False";
}

std::string framework_objection(const KernelVariant& v, const SystemTarget& target) {
  const std::string version = v.framework_version.text();
  switch (v.framework) {
    case KernelFramework::kTorch:
      if (v.framework_version != target.torch)
        return fmt::format("Torch version ({}) does not match environment Torch version ({})", version,
                           or_none(target.torch));
      if (v.cxx11_abi && v.cxx11_abi != target.torch_cxx11_abi)
        return fmt::format("Torch CXX11 ABI ({}) does not match environment Torch CXX11 ABI ({})", or_none(v.cxx11_abi),
                           or_none(target.torch_cxx11_abi));
      return "";
    case KernelFramework::kTorchStableAbi:
      if (!target.torch || v.framework_version > *target.torch)
        return fmt::format("Torch stable ABI version ({}) is too new for environment Torch version ({})", version,
                           or_none(target.torch));
      return "";
    case KernelFramework::kTvmFfi:
      if (v.framework_version != target.tvm_ffi)
        return fmt::format("tvm-ffi version ({}) does not match environment tvm-ffi version ({})", version,
                           or_none(target.tvm_ffi));
      return "";
    case KernelFramework::kNoarch:
      break;
  }
  return "";
}

std::string backend_objection(const KernelVariant& v, const SystemTarget& target) {
  const BackendSpec &has = v.backend, &system = target.backend;
  if (has.kind == KernelBackend::kCuda && system.kind == KernelBackend::kCuda) {
    if (has.version.major == system.version.major && has.version.minor <= system.version.minor) return "";
    return fmt::format("CUDA version ({}) is not compatible with system CUDA version ({})", has.version.text(),
                       system.version.text());
  }
  if (!(has == system))
    return fmt::format("backend ({}) does not match selected backend ({})", has.text(), system.text());
  if (has.kind == KernelBackend::kMetal && (!target.macos || *target.macos < kMetalMacos))
    return fmt::format("Metal kernels require macOS {} or later, system macOS version is {}", kMetalMacos.text(),
                       or_none(target.macos));
  return "";
}

std::string noarch_objection(const KernelVariant& v, const SystemTarget& target) {
  const std::string system = target.backend.kind == KernelBackend::kCann ? "npu" : backend_name(target.backend.kind);
  if (v.noarch_backend != system && v.noarch_backend != kUniversal)
    return fmt::format("backend ({}) does not match system backend ({}) and is not universal", v.noarch_backend,
                       system);
  return target.runs_python ? "" : "is Python code (PyTorch or Triton), which this program does not run";
}

std::string objection(const KernelVariant& v, const SystemTarget& target) {
  if (v.framework == KernelFramework::kNoarch) return noarch_objection(v, target);
  if (v.cpu != target.cpu) return fmt::format("CPU ({}) does not match system CPU ({})", v.cpu, target.cpu);
  if (v.os != target.os) return fmt::format("OS ({}) does not match system OS ({})", v.os, target.os);
  std::string why = framework_objection(v, target);
  return why.empty() ? backend_objection(v, target) : why;
}

// Smaller is preferred.
std::array<int, 5> rank(const VariantDecision& decision) {
  const KernelVariant& v = decision.variant;
  std::array<int, 5> key{decision.accepted() ? 0 : 1, 0, 0, 0, -v.backend.version.minor};
  switch (v.framework) {
    case KernelFramework::kTorchStableAbi:
      key[2] = -v.framework_version.major;
      key[3] = -v.framework_version.minor;
      break;
    case KernelFramework::kTorch:
      key[1] = 1;
      key[3] = v.cxx11_abi ? 1 : 0;
      break;
    case KernelFramework::kTvmFfi:
      key[1] = 2;
      break;
    case KernelFramework::kNoarch:
      key[1] = 3;
      key[4] = v.noarch_backend == kUniversal ? 1 : 0;
      break;
  }
  return key;
}

}  // namespace

const char* backend_name(KernelBackend backend) {
  return row_of(backend).name;
}

std::optional<KernelBackend> backend_of_name(std::string_view name) {
  const auto row = std::ranges::find(kBackends, name, &BackendRow::name);
  return row == std::end(kBackends) ? std::nullopt : std::optional(row->kind);
}

std::string MajorMinor::text() const {
  return fmt::format("{}.{}", major, minor);
}

std::string BackendSpec::text() const {
  const BackendRow& row = row_of(kind);
  return row.versioned ? fmt::format("{}{}{}", row.tag, version.major, version.minor) : row.tag;
}

std::string KernelVariant::backend_name() const {
  return framework == KernelFramework::kNoarch ? noarch_backend : hub::backend_name(backend.kind);
}

std::optional<KernelVariant> parse_kernel_variant(std::string_view name) {
  constexpr std::string_view kStable = "torch-stable-abi", kTorch = "torch", kFfi = "ffi";
  if (objection_to_file_name(name) || name.find('/') != name.npos) return std::nullopt;
  const std::vector<std::string_view> parts = split(name, '-');
  KernelVariant variant{.name = std::string(name)};
  auto arch_variant = [&](KernelFramework framework, std::string_view digits,
                          size_t arch) -> std::optional<KernelVariant> {
    std::optional<MajorMinor> version = one_digit_major(digits);
    if (!version || !parse_arch(variant, parts, arch)) return std::nullopt;
    variant.framework = framework;
    variant.framework_version = *version;
    return std::move(variant);
  };
  if (name.starts_with(kStable)) {
    return arch_variant(KernelFramework::kTorchStableAbi, parts[2].substr(3), 3);
  }
  if (parts[0] == kTorch) {
    variant.framework = KernelFramework::kNoarch;
    variant.noarch_backend = parts.size() == 1 ? "" : name.substr(kTorch.size() + 1);
    return variant;
  }
  if (parts[0].starts_with(kTorch)) {
    const bool tagged = parts.size() >= 2 && (parts[1] == "cxx11" || parts[1] == "cxx98");
    if (tagged) variant.cxx11_abi = parts[1] == "cxx11";
    return arch_variant(KernelFramework::kTorch, parts[0].substr(kTorch.size()), tagged ? 2 : 1);
  }
  if (parts[0] == "tvm" && parts.size() >= 2 && parts[1].starts_with(kFfi))
    return arch_variant(KernelFramework::kTvmFfi, parts[1].substr(kFfi.size()), 2);
  return std::nullopt;
}

std::string SystemTarget::text() const {
  std::string text = fmt::format("{}-{}-{}", backend.text(), cpu, os);
  if (capability > 0) text += fmt::format(", capability {}.{}", capability / 10, capability % 10);
  if (tvm_ffi) text += ", tvm-ffi " + tvm_ffi->text();
  if (torch) text += ", Torch " + torch->text();
  return text;
}

SystemTarget cpu_target() {
  SystemTarget target{.tvm_ffi = kTvmFfiVersion};
  struct utsname name {};
  if (uname(&name) != 0) return target;
  target.cpu = name.machine;
  target.os = name.sysname;
  std::ranges::transform(target.os, target.os.begin(),
                         [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return target;
}

SystemTarget cuda_target(MajorMinor driver, int capability) {
  SystemTarget target = cpu_target();
  target.backend = {KernelBackend::kCuda, driver};
  target.capability = capability;
  return target;
}

const KernelVariant* VariantTrace::chosen() const {
  return !decisions.empty() && decisions.front().accepted() ? &decisions.front().variant : nullptr;
}

std::string VariantTrace::text() const {
  std::string text;
  for (const VariantDecision& d : decisions) {
    const bool best = &d == &decisions.front();
    text += d.accepted() ? fmt::format("{} compatible{} ✅\n", d.variant.name, best ? ", preferred" : "")
                         : fmt::format("{}: {}\n", d.variant.name, d.refused);
  }
  for (const std::string& name : unknown) text += fmt::format("{}: no known form of a variant's name\n", shown(name));
  return text;
}

VariantTrace resolve_variants(const std::vector<std::string>& folders, const SystemTarget& target) {
  VariantTrace trace;
  for (const std::string& folder : folders) {
    std::optional<KernelVariant> variant = parse_kernel_variant(folder);
    if (!variant) {
      trace.unknown.push_back(folder);
      continue;
    }
    std::string why = objection(*variant, target);
    trace.decisions.push_back({std::move(*variant), std::move(why)});
  }
  std::ranges::sort(trace.unknown);
  std::ranges::sort(trace.decisions, {}, [](const VariantDecision& d) { return std::tuple(rank(d), d.variant.name); });
  return trace;
}

const std::string& LocalKernel::library_sha256() const {
  const auto file = std::ranges::find(files, library, &KernelFile::name);
  TS_CHECK(file != files.end(), "{} has no {}", text(), library);
  return file->sha256;
}

std::string LocalKernel::content_hash() const {
  ContentHash hash(HashKind::kSha256);
  for (const KernelFile& file : files) {
    const std::string line = fmt::format("{} {}\n", file.sha256, file.name);
    hash.update(line.data(), line.size());
  }
  return hash.finish();
}

std::string LocalKernel::text() const {
  return fmt::format("{}{} ({})", repo, commit.empty() ? "" : "@" + commit, variant.name);
}

}  // namespace tessera::hub
