#include "hub/hub_id.h"

#include <fnmatch.h>

#include <algorithm>

#include "core/error.h"

namespace tessera::hub {

namespace {

constexpr size_t kMaxPart = 96;           // of a repository's name, the hub's rule
constexpr size_t kMaxFileName = 1024;     // bytes; PATH_MAX leaves room for the cache's own part
constexpr size_t kMaxFileNamePart = 255;  // bytes, what file systems take

bool is_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

bool is_control(char c) {
  return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
}

bool is_repo_part(std::string_view part) {
  if (part.empty() || part.size() > kMaxPart || !is_word(part.front()) || !is_word(part.back())) return false;
  return std::ranges::all_of(part, [](char c) { return is_word(c) || c == '-' || c == '.'; });
}

// Calls visit(part) for what stands between slashes; false as soon as one call is.
template <class Visit>
bool each_part(std::string_view path, Visit visit) {
  for (;;) {
    size_t slash = path.find('/');
    if (!visit(path.substr(0, slash))) return false;
    if (slash == std::string_view::npos) return true;
    path.remove_prefix(slash + 1);
  }
}

}  // namespace

bool is_hex(std::string_view text, size_t digits) {
  return text.size() == digits &&
         std::ranges::all_of(text, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

bool is_commit(std::string_view text) {
  return is_hex(text, 40);
}

bool is_repo_name(std::string_view repo) {
  if (repo.find("--") != std::string_view::npos || repo.find("..") != std::string_view::npos) return false;
  if (repo.ends_with(".git") || std::ranges::count(repo, '/') > 1) return false;
  return each_part(repo, is_repo_part);
}

bool is_revision(std::string_view revision) {
  if (revision.empty() || revision.size() > 255) return false;
  if (std::ranges::any_of(revision, [](char c) { return is_control(c) || c == '\\'; })) return false;
  return each_part(revision, [](std::string_view part) { return !part.empty() && part != "." && part != ".."; });
}

std::optional<HubId> parse_hub_id(std::string_view text, bool short_names) {
  HubId id;
  size_t at = text.find('@');
  id.repo = text.substr(0, at);
  if (at != std::string_view::npos) id.revision = text.substr(at + 1);
  if (!is_repo_name(id.repo) || !is_revision(id.revision)) return std::nullopt;
  if (!short_names && id.repo.find('/') == std::string::npos) return std::nullopt;
  return id;
}

HubId require_hub_id(std::string_view text) {
  if (std::optional<HubId> id = parse_hub_id(text, true)) return *std::move(id);
  fail(ErrorCode::kInvalidArgument, "'{}' is no hub id; expected ORG/NAME or ORG/NAME@REVISION, as openai/gpt-oss-20b",
       shown(text));
}

const char* objection_to_file_name(std::string_view name) {
  if (name.empty()) return "is empty";
  if (name.size() > kMaxFileName) return "is longer than 1024 bytes";
  if (name.front() == '/') return "is an absolute path";
  if (std::ranges::any_of(name, is_control)) return "holds control characters";
  if (name.find('\\') != std::string_view::npos) return "holds a backslash";
  bool fits = each_part(name, [](std::string_view part) { return part.size() <= kMaxFileNamePart; });
  if (!fits) return "has a part longer than 255 bytes";
  bool inside = each_part(name, [](std::string_view part) { return part != "." && part != ".."; });
  if (!inside) return "leaves its folder";
  if (!each_part(name, [](std::string_view part) { return !part.empty(); })) return "has an empty part";
  return nullptr;
}

bool is_blob_name(std::string_view etag) {
  return !etag.empty() && etag.size() <= 128 && etag.front() != '.' &&
         std::ranges::all_of(etag, [](char c) { return is_word(c) || c == '-' || c == '.'; });
}

std::string repo_folder_name(std::string_view repo, RepoKind kind) {
  std::string folder = kind == RepoKind::kKernel ? "kernels--" : "models--";
  for (char c : repo) c == '/' ? folder += "--" : folder += c;
  return folder;
}

std::string shown(std::string_view text) {
  constexpr size_t kMax = 120;
  std::string out;
  for (char c : text.substr(0, kMax)) {
    if (is_control(c) || static_cast<unsigned char>(c) >= 0x80) {
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    } else {
      out += c;
    }
  }
  if (text.size() > kMax) out += fmt::format("... ({} bytes)", text.size());
  return out;
}

bool matches(const std::string& pattern, const std::string& name) {
  std::string full = pattern.ends_with('/') ? pattern + "*" : pattern;
  return fnmatch(full.c_str(), name.c_str(), FNM_NOESCAPE) == 0;
}

}  // namespace tessera::hub
