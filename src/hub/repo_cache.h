// One repository's folder in the Hugging Face cache, shared with Python's tools:
//   models--ORG--NAME/blobs/<etag>                      contents; <etag>.incomplete: the first bytes of one
//                    /snapshots/<commit>/<file>         relative symbolic links into blobs/
//                    /refs/<branch or tag>              the commit it stood for when last asked
//                    /trees/<commit>.json               the whole repository's list of files
//                    /.no_exist/<commit>/<file>         empty: known to be absent
//   .locks/models--ORG--NAME/<etag>.lock                held while a blob is written or removed
// A kernel's repository is kernels--ORG--NAME. Everything appears by rename, after its content is there. Thread-safe:
// no state but the path.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "hub/file_lock.h"
#include "hub/hub_id.h"
#include "hub/server_answers.h"

namespace tessera::hub {

class RepoCache {
 public:
  // `cache` as HubSettings::cache. REQUIRES: is_repo_name(repo).
  RepoCache(std::string cache, std::string repo, RepoKind kind = RepoKind::kModel);

  const std::string& folder() const { return folder_; }
  std::string blob_path(const std::string& etag) const;
  std::string incomplete_path(const std::string& etag) const { return blob_path(etag) + ".incomplete"; }
  std::string snapshot_path(const std::string& commit) const;
  // REQUIRES: objection_to_file_name(file) is null.
  std::string file_path(const std::string& commit, const std::string& file) const;

  // The commit that a revision stands for: itself, or what refs/ says. nullopt when unknown here.
  std::optional<std::string> commit_of(const std::string& revision) const;
  // Bytes of a file of a snapshot whose content is there; nullopt otherwise.
  std::optional<int64_t> file_size(const std::string& commit, const std::string& file) const;
  std::optional<RepoListing> read_tree(const std::string& commit) const;
  bool known_absent(const std::string& commit, const std::string& file) const;

  // All throw kIo.
  void prepare(const std::string& commit) const;  // the folders
  void write_ref(const std::string& revision, const std::string& commit) const;
  void write_tree(const RepoListing& listing) const;
  void note_absent(const std::string& commit, const std::string& file) const;
  // Points snapshots/<commit>/<file> at the blob. REQUIRES: the blob's lock.
  void link(const std::string& commit, const std::string& file, const std::string& etag) const;
  FileLock lock_blob(const std::string& etag, const std::function<void()>& wait) const;

 private:
  void replace_file(const std::string& path, const std::string& text) const;

  std::string cache_;
  std::string name_;    // models--ORG--NAME
  std::string folder_;  // of the repository
};

}  // namespace tessera::hub
