// What the hub's cache holds, and removing parts of it.
//
// Deleting is safe beside a running model: its files are memory-mapped, and an unlinked file lives until the last map
// of it is gone. Safe beside a download too: a blob is removed under its lock, after looking again whether a snapshot
// refers to it. Refs go first, then snapshots, then blobs, so a kill leaves bytes nobody refers to, never a link to
// nothing.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tessera::hub {

struct CachedRevision {
  std::string commit;
  std::string path;
  std::vector<std::string> refs;   // sorted
  std::vector<std::string> blobs;  // paths, sorted, each once
  int64_t files = 0;
  int64_t bytes = 0;
  double last_modified = 0;  // seconds since 1970
};

struct CachedRepo {
  std::string id;    // ORG/NAME
  std::string type;  // model, dataset, space, kernel
  std::string path;
  std::vector<CachedRevision> revisions;  // sorted by commit
  int64_t files = 0;                      // blobs, each once
  int64_t bytes = 0;
  double last_accessed = 0, last_modified = 0;
};

struct CacheReport {
  std::vector<CachedRepo> repos;      // sorted by id
  std::vector<std::string> warnings;  // folders that are no repositories, links to nothing, ...
  int64_t bytes = 0;
  int64_t incomplete_bytes = 0;  // of unfinished downloads
};

// A cache that does not exist is empty. Throws kIo.
CacheReport scan_cache(const std::string& cache);

struct DeletePlan {
  std::string repo_path, cache;
  std::string what;  // ORG/NAME or ORG/NAME@commit
  bool whole_repo = false;
  std::vector<CachedRevision> revisions;  // to remove
  std::vector<std::string> blobs;         // that nothing else refers to
  int64_t bytes = 0;                      // these occupy
};

// `targets`: ORG/NAME, ORG/NAME@REV (branch, tag, or a commit's first 7 digits or more), or a commit. Throws kNotFound
// with what there is.
std::vector<DeletePlan> plan_deletion(const CacheReport& report, const std::string& cache,
                                      const std::vector<std::string>& targets);
// Bytes freed. Throws kIo.
int64_t delete_from_cache(const DeletePlan& plan);

// "116.3K", as the hub's tools print sizes.
std::string short_size(int64_t bytes);

}  // namespace tessera::hub
