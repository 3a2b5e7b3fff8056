#include "hub/kernel_metadata.h"

#include <toml++/toml.h>
#include <algorithm>
#include <charconv>
#include <tuple>

#include "core/error.h"
#include "hub/hub_id.h"
#include "hub/json_reader.h"

namespace tessera::hub {

namespace {

constexpr size_t kMaxDigestFiles = 100'000;
constexpr size_t kMaxTomlBytes = 1 << 20;
constexpr const char* kBackendNames[] = {"cann", "cpu", "cuda", "metal", "neuron", "rocm", "tpu", "xpu"};

// The rule of kernel-builder: lower-case letter first, then letters, digits and dashes, no dash last, two or more.
bool is_kernel_name(std::string_view name) {
  auto lower = [](char c) { return c >= 'a' && c <= 'z'; };
  auto digit = [](char c) { return c >= '0' && c <= '9'; };
  return name.size() >= 2 && name.size() <= 96 && lower(name.front()) && name.back() != '-' &&
         std::ranges::all_of(name, [&](char c) { return lower(c) || digit(c) || c == '-'; });
}

std::optional<KernelGitState> parse_git(const Json* object, const std::string& where) {
  if (!object) return std::nullopt;
  JsonReader in(*object, where);
  if (!in.find("commit")) return std::nullopt;
  return KernelGitState{in.string("commit"), in.boolean("dirty", false)};
}

KernelDigest parse_digest(const Json& object, const std::string& where) {
  JsonReader in(object, where);
  KernelDigest digest{.algorithm = in.string("algorithm")};
  if (digest.algorithm != "sha256" && digest.algorithm != "sha512")
    fail(ErrorCode::kCorrupt, "{}: the digest's algorithm is '{}'; expected sha256 or sha512", where,
         shown(digest.algorithm));
  const size_t length = digest.algorithm == "sha256" ? 32 : 64;
  const Json& files = in.at("files");
  if (!files.is_object() || files.size() > kMaxDigestFiles)
    fail(ErrorCode::kCorrupt, "{}: the digest's \"files\" is no object of at most {} files", where, kMaxDigestFiles);
  for (const auto& [name, hash] : files.items()) {
    if (const char* why = objection_to_file_name(name))
      fail(ErrorCode::kCorrupt, "{}: refused, the digest names the file '{}', whose name {}", where, shown(name), why);
    const std::string text = hash.is_string() ? hash.get<std::string>() : "";
    std::optional<std::string> bytes = from_base64(text);
    if (!bytes || bytes->size() != length)
      fail(ErrorCode::kCorrupt, "{}: the digest of '{}' is no {} in base64", where, shown(name), digest.algorithm);
    digest.files[name] = text;
  }
  return digest;
}

toml::table parse_toml(std::string_view text, const std::string& where) {
  if (text.size() > kMaxTomlBytes)
    fail(ErrorCode::kCorrupt, "{}: {} bytes, more than the {} this program takes", where, text.size(), kMaxTomlBytes);
  try {
    return toml::parse(text);
  } catch (const toml::parse_error& e) {
    fail(ErrorCode::kCorrupt, "{}: line {}: {}", where, e.source().begin.line, shown(e.description()));
  }
}

constexpr std::string_view kBase64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

// {major, minor, suffix, PTX} of "9.0a+PTX"; nullopt for other forms.
struct CudaArch {
  int capability = 0;
  char suffix = 0;
  bool ptx = false;
};

std::optional<CudaArch> parse_cuda_arch(std::string_view text) {
  CudaArch arch;
  if (text.ends_with("+PTX")) arch.ptx = true, text.remove_suffix(4);
  if (text.ends_with('a') || text.ends_with('f')) arch.suffix = text.back(), text.remove_suffix(1);
  const size_t dot = text.find('.');
  if (dot == text.npos) return std::nullopt;
  int major = 0, minor = 0;
  auto read = [](std::string_view digits, int& value) {
    auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    return !digits.empty() && error == std::errc() && end == digits.data() + digits.size() && value >= 0 &&
           value < 1000;
  };
  if (!read(text.substr(0, dot), major) || !read(text.substr(dot + 1), minor) || minor > 9) return std::nullopt;
  arch.capability = major * 10 + minor;
  return arch;
}

}  // namespace

std::string KernelDependency::text() const {
  return version ? fmt::format("{} (version: {})", repo, *version) : fmt::format("{} (revision: {})", repo, revision);
}

std::strong_ordering KernelDependency::operator<=>(const KernelDependency& other) const {
  auto key = [](const KernelDependency& d) {
    return std::tuple<const std::string&, bool, int64_t, const std::string&>(d.repo, !d.version, d.version.value_or(0),
                                                                             d.revision);
  };
  return key(*this) <=> key(other);
}

KernelDependency parse_kernel_dependency(const Json& object, const std::string& where) {
  JsonReader in(object, where);
  in.only({"repo-id", "version", "revision"});
  KernelDependency dependency{.repo = in.string("repo-id")};
  if (in.find("version")) dependency.version = in.natural("version");
  dependency.revision = in.optional_string("revision").value_or("");
  const std::string& repo = dependency.repo;
  if (!is_repo_name(repo)) fail(ErrorCode::kCorrupt, "{}: '{}' is no repository's name", where, shown(repo));
  if (dependency.version.has_value() == !dependency.revision.empty())
    fail(ErrorCode::kCorrupt, "{}: {} needs either \"version\" or \"revision\"", where, repo);
  if (!dependency.revision.empty() && !is_revision(dependency.revision))
    fail(ErrorCode::kCorrupt, "{}: '{}' is no revision", where, shown(dependency.revision));
  return dependency;
}

KernelMetadata parse_kernel_metadata(std::string_view json, const std::string& where) {
  const Json object = parse_foreign_json(json, where, kMaxMetadataBytes);
  JsonReader in(object, where);
  KernelMetadata out{.id = in.string("id"), .name = in.string("name"), .version = in.natural("version")};
  if (!is_kernel_name(out.name))
    fail(ErrorCode::kCorrupt, "{}: '{}' is no kernel's name; expected lower-case letters, digits and dashes", where,
         shown(out.name));
  out.license = in.string("license");
  out.kernels_minver = in.optional_string("kernels-minver");
  out.upstream = in.optional_string("upstream");
  out.source = in.optional_string("source");
  out.python_depends = in.strings("python-depends");
  if (const Json* list = in.list("kernel-depends"))
    for (const Json& entry : *list) out.kernel_depends.push_back(parse_kernel_dependency(entry, where));
  JsonReader backend(in.at("backend"), where);
  out.backend = backend.string("type");
  if (std::ranges::find(kBackendNames, out.backend) == std::end(kBackendNames))
    fail(ErrorCode::kCorrupt, "{}: the backend '{}' is unknown", where, shown(out.backend));
  out.archs = backend.strings("archs");
  if (const Json* digest = in.find("digest")) out.digest = parse_digest(*digest, where);
  if (const Json* provenance = in.find("provenance")) {
    JsonReader of(*provenance, where);
    out.builder = parse_git(of.find("kernel-builder"), where);
    out.sources = parse_git(of.find("kernel"), where);
  }
  return out;
}

bool is_digested_file(std::string_view name) {
  if (name == kMetadataFile || name == kSignatureFile || name.ends_with(".pyc")) return false;
  return !name.starts_with("__pycache__/") && name.find("/__pycache__/") == name.npos;
}

std::vector<std::string> digest_violations(const KernelDigest& expected, const KernelDigest& actual) {
  std::vector<std::string> lines;
  for (const auto& [name, hash] : expected.files) {
    auto found = actual.files.find(name);
    if (found == actual.files.end()) {
      lines.push_back("Missing file: " + name);
    } else if (found->second != hash) {
      lines.push_back(fmt::format("File hash mismatch for {}: expected: {}, got: {}", name, hash, found->second));
    }
  }
  for (const auto& [name, hash] : actual.files)
    if (!expected.files.contains(name)) lines.push_back("Unknown file: " + shown(name));
  return lines;
}

bool archs_support_capability(const std::vector<std::string>& archs, int capability) {
  bool known = false;
  for (const std::string& text : archs) {
    std::optional<CudaArch> arch = parse_cuda_arch(text);
    if (!arch) continue;
    known = true;
    const bool same_generation = arch->capability / 10 == capability / 10 && capability >= arch->capability;
    if (arch->suffix == 'a' ? capability == arch->capability
                            : same_generation || (arch->ptx && !arch->suffix && capability >= arch->capability))
      return true;
  }
  return !known;
}

KernelRedirect parse_kernel_status(std::string_view text, const std::string& where) {
  const toml::table table = parse_toml(text, where);
  const auto kind = table["kind"].value<std::string>();
  if (kind != "redirect")
    fail(ErrorCode::kCorrupt, "{}: kind is '{}'; expected \"redirect\"", where, shown(kind.value_or("")));
  KernelRedirect redirect{.repo = table["destination"].value_or(std::string())};
  redirect.revision = table["revision"].value_or(redirect.revision);
  if (!is_repo_name(redirect.repo) || redirect.repo.find('/') == std::string::npos)
    fail(ErrorCode::kCorrupt, "{}: destination is '{}'; expected ORG/NAME", where, shown(redirect.repo));
  if (!is_revision(redirect.revision))
    fail(ErrorCode::kCorrupt, "{}: revision is '{}'; expected a branch, tag or commit", where,
         shown(redirect.revision));
  return redirect;
}

std::vector<KernelDependency> parse_kernel_dependencies(std::string_view text, const std::string& where) {
  const toml::table table = parse_toml(text, where);
  std::vector<KernelDependency> out;
  const toml::table* dependencies = table["tool"]["kernels"]["dependencies"].as_table();
  if (!dependencies)
    fail(ErrorCode::kCorrupt, "{}: has no [tool.kernels.dependencies]; write \"ORG/NAME\" = VERSION below it", where);
  for (const auto& [key, value] : *dependencies) {
    const std::string repo(key.str());
    const auto version = value.value_exact<int64_t>();
    if (!is_repo_name(repo) || repo.find('/') == std::string::npos || !version || *version < 0)
      fail(ErrorCode::kCorrupt, "{}: {}: expected \"ORG/NAME\" = VERSION, a whole number", where, shown(repo));
    out.push_back({.repo = repo, .version = version});
  }
  return out;
}

std::string to_base64(std::string_view bytes) {
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t group = 0;
    const size_t count = std::min<size_t>(3, bytes.size() - i);
    for (size_t k = 0; k < 3; ++k) group = group << 8 | (k < count ? static_cast<unsigned char>(bytes[i + k]) : 0u);
    for (size_t k = 0; k < 4; ++k) out += k <= count ? kBase64[group >> (18 - 6 * k) & 63] : '=';
  }
  return out;
}

std::optional<std::string> from_base64(std::string_view text) {
  if (text.size() % 4 != 0) return std::nullopt;
  std::string out;
  for (size_t i = 0; i < text.size(); i += 4) {
    uint32_t group = 0;
    size_t count = 4;
    while (count > 2 && text[i + count - 1] == '=' && i + 4 == text.size()) --count;
    for (size_t k = 0; k < 4; ++k) {
      const size_t value = k < count ? kBase64.find(text[i + k]) : 0;
      if (value == kBase64.npos) return std::nullopt;
      group = group << 6 | static_cast<uint32_t>(value);
    }
    for (size_t k = 0; k + 1 < count; ++k) out += static_cast<char>(group >> (16 - 8 * k) & 255);
  }
  return to_base64(out) == text ? std::optional(out) : std::nullopt;
}

}  // namespace tessera::hub
