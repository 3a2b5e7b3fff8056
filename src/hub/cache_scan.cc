#include "hub/cache_scan.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "core/error.h"
#include "hub/hub_id.h"

namespace tessera::hub {

namespace {

namespace fs = std::filesystem;

double seconds(const timespec& time) {
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

struct Blob {
  int64_t bytes = 0;
  double accessed = 0, modified = 0;
};
using Blobs = std::map<std::string, Blob>;

// Thrown and caught in this file: what is wrong with one repository's folder.
struct Oddity {
  std::string text;
};

Blob stat_blob(const std::string& path) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) throw Oddity{path + " is missing: a broken link"};
  return {info.st_size, seconds(info.st_atim), seconds(info.st_mtim)};
}

// commit -> names under refs/.
std::map<std::string, std::vector<std::string>> read_refs(const fs::path& folder) {
  std::map<std::string, std::vector<std::string>> refs;
  std::error_code error;
  for (fs::recursive_directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (!it->is_regular_file(error)) continue;
    std::ifstream in(it->path(), std::ios::binary);
    char text[65] = {};
    in.read(text, 64);
    refs[text].push_back(it->path().lexically_relative(folder).string());
  }
  return refs;
}

// What the link says, not where a chain of links ends: a blob may be a link itself.
std::string blob_of(const fs::path& file) {
  std::error_code error;
  if (!fs::is_symlink(file, error)) return file.string();
  return (file.parent_path() / fs::read_symlink(file, error)).lexically_normal().string();
}

CachedRevision scan_revision(const fs::path& folder, Blobs& blobs) {
  CachedRevision revision{.commit = folder.filename().string(), .path = folder.string()};
  std::set<std::string> mine;
  std::error_code error;
  for (fs::recursive_directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (it->is_directory(error)) continue;
    std::string blob = blob_of(it->path());
    auto [known, fresh] = blobs.try_emplace(blob);
    if (fresh) known->second = stat_blob(blob);
    revision.last_modified = std::max(revision.last_modified, known->second.modified);
    if (mine.insert(blob).second) revision.bytes += known->second.bytes;
    ++revision.files;
  }
  revision.blobs.assign(mine.begin(), mine.end());
  if (revision.files == 0) revision.last_modified = stat_blob(folder.string()).modified;
  return revision;
}

const char* repo_type(std::string_view prefix) {
  if (prefix == "models") return "model";
  if (prefix == "datasets") return "dataset";
  if (prefix == "spaces") return "space";
  return prefix == "kernels" ? "kernel" : nullptr;
}

CachedRepo scan_repo(const fs::path& folder) {
  CachedRepo repo{.path = folder.string()};
  const std::string name = folder.filename().string();
  const size_t dashes = name.find("--");
  const char* type = dashes == name.npos ? nullptr : repo_type(name.substr(0, dashes));
  std::error_code error;
  if (!type || !fs::is_directory(folder, error)) throw Oddity{folder.string() + " is no repository of the cache"};
  repo.type = type;
  for (size_t i = dashes + 2; i < name.size(); ++i) {
    const bool separator = name.compare(i, 2, "--") == 0;
    repo.id += separator ? '/' : name[i];
    i += separator;
  }
  if (!fs::is_directory(folder / "snapshots", error)) throw Oddity{folder.string() + " has no folder snapshots/"};

  auto refs = read_refs(folder / "refs");
  Blobs blobs;
  for (const auto& entry : fs::directory_iterator(folder / "snapshots", error)) {
    if (!entry.is_directory(error)) throw Oddity{entry.path().string() + " is a file among snapshots"};
    CachedRevision revision = scan_revision(entry.path(), blobs);
    if (auto it = refs.find(revision.commit); it != refs.end()) {
      revision.refs = std::move(it->second);
      std::ranges::sort(revision.refs);
      refs.erase(it);
    }
    repo.revisions.push_back(std::move(revision));
  }
  if (!refs.empty()) {
    throw Oddity{fmt::format("{}/refs/{} names the commit '{}', which is not there", folder.string(),
                             refs.begin()->second.front(), shown(refs.begin()->first))};
  }
  std::ranges::sort(repo.revisions, {}, &CachedRevision::commit);
  const Blob self = stat_blob(folder.string());
  if (blobs.empty()) repo.last_accessed = self.accessed, repo.last_modified = self.modified;
  for (const auto& [path, blob] : blobs) {
    ++repo.files;
    repo.bytes += blob.bytes;
    repo.last_accessed = std::max(repo.last_accessed, blob.accessed);
    repo.last_modified = std::max(repo.last_modified, blob.modified);
  }
  return repo;
}

int64_t incomplete_bytes(const fs::path& repo) {
  int64_t bytes = 0;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(repo / "blobs", error))
    if (entry.path().extension() == ".incomplete") bytes += static_cast<int64_t>(entry.file_size(error));
  return bytes;
}

}  // namespace

CacheReport scan_cache(const std::string& cache) {
  CacheReport report;
  std::error_code error;
  if (!fs::exists(cache, error)) return report;
  fs::directory_iterator entries(cache, error);
  if (error) fail(ErrorCode::kIo, "{}: cannot be listed ({})", cache, error.message());
  for (const auto& entry : entries) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with('.') || name == "CACHEDIR.TAG") continue;
    try {
      report.incomplete_bytes += incomplete_bytes(entry.path());
      report.repos.push_back(scan_repo(entry.path()));
      report.bytes += report.repos.back().bytes;
    } catch (const Oddity& oddity) {
      report.warnings.push_back(oddity.text);
    }
  }
  std::ranges::sort(report.repos, [](const CachedRepo& a, const CachedRepo& b) {
    return std::tie(a.id, a.type) < std::tie(b.id, b.type);
  });
  return report;
}

std::string short_size(int64_t bytes) {
  auto size = static_cast<double>(bytes);
  for (const char* unit : {"", "K", "M", "G", "T", "P"}) {
    if (size < 1000) return fmt::format("{:.1f}{}", size, unit);
    size /= 1000;
  }
  return fmt::format("{:.1f}E", size);
}

}  // namespace tessera::hub
