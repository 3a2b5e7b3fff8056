// What a kernel repository says of itself: build/<variant>/metadata.json with the digests of the variant's files, and
// kernel-status.toml, which can send its users elsewhere. Foreign bytes: every function is total or throws Error. Pure.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"

namespace tessera::hub {

// Another repository that a kernel needs: exactly one of version and revision is given.
struct KernelDependency {
  std::string repo;  // ORG/NAME
  std::optional<int64_t> version;
  std::string revision;

  std::string text() const;  // "ORG/NAME (version: 1)"
  // By repository, then versions, then revisions.
  std::strong_ordering operator<=>(const KernelDependency& other) const;
  bool operator==(const KernelDependency&) const = default;
};
// {"repo-id", "version" or "revision"}. Throws kCorrupt.
KernelDependency parse_kernel_dependency(const Json& object, const std::string& where);

// How a variant's files are known: the hash of each, in base64 as metadata.json has it.
struct KernelDigest {
  std::string algorithm;                     // "sha256" or "sha512"
  std::map<std::string, std::string> files;  // path below the variant's folder -> base64
};

struct KernelGitState {
  std::string commit;
  bool dirty = false;
};

struct KernelMetadata {
  std::string id;    // unique name of the module
  std::string name;  // "liger-kernels"
  int64_t version = 0;
  std::string license;
  std::optional<std::string> kernels_minver, upstream, source;
  std::vector<std::string> python_depends;
  std::vector<KernelDependency> kernel_depends;
  std::string backend;             // cpu, cuda, rocm, ...
  std::vector<std::string> archs;  // of the backend: "9.0a", "gfx942"; empty: not said
  std::optional<KernelDigest> digest;
  std::optional<KernelGitState> builder, sources;  // provenance

  bool dirty() const { return (builder && builder->dirty) || (sources && sources->dirty); }
};

// `where` opens every message. Throws kCorrupt.
KernelMetadata parse_kernel_metadata(std::string_view json, const std::string& where);

inline constexpr const char* kMetadataFile = "metadata.json";
inline constexpr const char* kSignatureFile = "metadata.json.sigstore";
inline constexpr int64_t kMaxMetadataBytes = int64_t{8} << 20;

// Does the digest speak of this file of a variant? Not of metadata.json itself, its signature, nor bytecode.
bool is_digested_file(std::string_view name);

// What of `actual` (the same algorithm) deviates from `expected`, a line each, in the words of Python's client:
// "Missing file: a.so", "Unknown file: b.so", "File hash mismatch for a.so: expected: ..., got: ...".
std::vector<std::string> digest_violations(const KernelDigest& expected, const KernelDigest& actual);

// May a build with these CUDA architectures ("9.0", "9.0a", "10.0f", "9.0+PTX") run on capability 90? As Python's
// client decides: unknown forms alone, or no architectures at all, are taken as yes.
bool archs_support_capability(const std::vector<std::string>& archs, int capability);

struct KernelRedirect {
  std::string repo;  // ORG/NAME
  std::string revision = "main";
};
// Of kernel-status.toml. Throws kCorrupt.
KernelRedirect parse_kernel_status(std::string_view toml, const std::string& where);

// [tool.kernels.dependencies] of a pyproject.toml: "ORG/NAME" = version. Throws kCorrupt.
std::vector<KernelDependency> parse_kernel_dependencies(std::string_view toml, const std::string& where);

// Bytes as base64 with padding, and back; nullopt for anything that is not exactly that.
std::string to_base64(std::string_view bytes);
std::optional<std::string> from_base64(std::string_view text);

}  // namespace tessera::hub
