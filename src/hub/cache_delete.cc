// plan_deletion() and delete_from_cache() of cache_scan.h.
#include <algorithm>
#include <filesystem>
#include <set>

#include "core/error.h"
#include "hub/cache_scan.h"
#include "hub/file_lock.h"
#include "hub/hub_id.h"

namespace tessera::hub {

namespace {

namespace fs = std::filesystem;

bool names_revision(const CachedRevision& revision, const std::string& name) {
  if (std::ranges::find(revision.refs, name) != revision.refs.end()) return true;
  return name.size() >= 7 && revision.commit.starts_with(name);
}

// Marks what `target` names; false when it names nothing.
bool mark(const CacheReport& report, const std::string& target, std::vector<std::set<size_t>>& marked) {
  const size_t at = target.find('@');
  const std::string id = target.substr(0, at), name = at == target.npos ? "" : target.substr(at + 1);
  bool found = false;
  for (size_t r = 0; r < report.repos.size(); ++r) {
    const CachedRepo& repo = report.repos[r];
    const bool mine = repo.id == id || repo.type + "/" + repo.id == id;
    for (size_t i = 0; i < repo.revisions.size(); ++i) {
      const CachedRevision& revision = repo.revisions[i];
      const bool hit = mine ? at == target.npos || names_revision(revision, name)
                            : at == target.npos && is_commit(target) && revision.commit == target;
      if (hit) marked[r].insert(i);
      found |= hit;
    }
    if (mine && at == target.npos && repo.revisions.empty()) {
      marked[r].insert(size_t(-1));  // the folder alone
      found = true;
    }
  }
  return found;
}

// Does a snapshot that is still there refer to the blob?
bool in_use(const fs::path& repo, const fs::path& blob) {
  std::error_code error;
  for (fs::recursive_directory_iterator it(repo / "snapshots", error), end; !error && it != end; it.increment(error)) {
    if (it->is_symlink(error) && fs::read_symlink(it->path(), error).filename() == blob.filename()) return true;
  }
  return false;
}

void remove_path(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) fail(ErrorCode::kIo, "{}: cannot be removed ({})", path.string(), error.message());
}

// A ref's folders when they are empty now.
void remove_ref(const fs::path& refs, const std::string& name) {
  remove_path(refs / name);
  std::error_code error;
  for (fs::path folder = (refs / name).parent_path(); folder != refs && fs::is_empty(folder, error) && !error;
       folder = folder.parent_path())
    fs::remove(folder, error);
}

}  // namespace

std::vector<DeletePlan> plan_deletion(const CacheReport& report, const std::string& cache,
                                      const std::vector<std::string>& targets) {
  std::vector<std::set<size_t>> marked(report.repos.size());
  for (const std::string& target : targets) {
    if (mark(report, target, marked)) continue;
    fail(ErrorCode::kNotFound, "{}: not in the cache {}; 'tessera cache scan --verbose' lists what is", shown(target),
         cache);
  }
  std::vector<DeletePlan> plans;
  for (size_t r = 0; r < marked.size(); ++r) {
    if (marked[r].empty()) continue;
    const CachedRepo& repo = report.repos[r];
    DeletePlan plan{.repo_path = repo.path, .cache = cache, .what = repo.id};
    std::set<std::string> kept, dropped;
    for (size_t i = 0; i < repo.revisions.size(); ++i) {
      const bool drop = marked[r].contains(i);
      (drop ? dropped : kept).insert(repo.revisions[i].blobs.begin(), repo.revisions[i].blobs.end());
      if (drop) plan.revisions.push_back(repo.revisions[i]);
    }
    plan.whole_repo = plan.revisions.size() == repo.revisions.size();
    if (!plan.whole_repo) plan.what = fmt::format("{}@{:.8}", repo.id, plan.revisions.front().commit);
    std::ranges::set_difference(dropped, kept, std::back_inserter(plan.blobs));
    std::error_code error;
    for (const std::string& blob : plan.blobs) plan.bytes += static_cast<int64_t>(fs::file_size(blob, error));
    plans.push_back(std::move(plan));
  }
  return plans;
}

int64_t delete_from_cache(const DeletePlan& plan) {
  const fs::path repo = plan.repo_path;
  for (const CachedRevision& revision : plan.revisions) {
    for (const std::string& ref : revision.refs) remove_ref(repo / "refs", ref);
    remove_path(revision.path);
    remove_path(repo / ".no_exist" / revision.commit);
    remove_path(repo / "trees" / (revision.commit + ".json"));
  }
  int64_t freed = 0;
  const fs::path blobs = repo / "blobs", locks = fs::path(plan.cache) / ".locks" / repo.filename();
  for (const std::string& path : plan.blobs) {
    const fs::path blob = path;
    if (blob.parent_path() != blobs || !is_blob_name(blob.filename().string())) continue;  // went with the snapshot
    FileLock lock((locks / (blob.filename().string() + ".lock")).string(), [] {});
    if (in_use(repo, blob)) continue;
    std::error_code error;
    auto size = fs::file_size(blob, error);
    if (fs::remove(blob, error)) freed += static_cast<int64_t>(size);
  }
  if (!plan.whole_repo) return freed;
  std::error_code error;
  // What is left of a repository nobody downloads into: unfinished pieces, empty folders.
  fs::directory_iterator left(repo / "snapshots", error);
  if (error || left == fs::directory_iterator()) remove_path(repo);
  return freed;
}

}  // namespace tessera::hub
