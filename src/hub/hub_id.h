// Names of the hub: repositories, revisions, files, blobs. What comes from outside becomes part of a path only through
// the checks here, so that no path leaves the cache. Pure.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace tessera::hub {

inline constexpr const char* kDefaultRevision = "main";

// What a repository holds. The hub and its cache keep the two apart.
enum class RepoKind { kModel, kKernel };

struct HubId {
  std::string repo;  // "ORG/NAME", or "NAME" for the oldest repositories
  std::string revision = kDefaultRevision;
  RepoKind kind = RepoKind::kModel;

  std::string text() const { return revision == kDefaultRevision ? repo : repo + "@" + revision; }
};

// "ORG/NAME[@REVISION]"; with `short_names` also "NAME". nullopt for anything else, such as a path.
std::optional<HubId> parse_hub_id(std::string_view text, bool short_names = false);
// parse_hub_id, or kInvalidArgument saying what a hub id looks like.
HubId require_hub_id(std::string_view text);

// The hub's own rule: letters, digits, '-', '_', '.', at most 96 of them a part, no "--", no "..".
bool is_repo_name(std::string_view repo);
// A branch, tag or commit: no empty part, ".", "..", control character or backslash; at most 255 bytes.
bool is_revision(std::string_view revision);
// 40 lower-case hexadecimal digits.
bool is_commit(std::string_view text);
bool is_hex(std::string_view text, size_t digits);

// Why a file name from a server may not be used, or null when it is a plain relative path that stays inside its folder.
const char* objection_to_file_name(std::string_view name);
// May an ETag name a file in blobs/? Letters, digits, '-', '_', '.', not beginning with '.', at most 128.
bool is_blob_name(std::string_view etag);

// "models--ORG--NAME" or "kernels--ORG--NAME", the repository's folder in the cache.
std::string repo_folder_name(std::string_view repo, RepoKind kind = RepoKind::kModel);

// For a one-line message: control characters escaped, long texts cut.
std::string shown(std::string_view text);

// Python's fnmatch, as the hub's own tools use it: '*' also matches '/', and a pattern that ends in '/' means all
// below.
bool matches(const std::string& pattern, const std::string& name);

}  // namespace tessera::hub
