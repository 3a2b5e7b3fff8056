#include "hub/repo_cache.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "core/json.h"

namespace tessera::hub {

namespace {

namespace fs = std::filesystem;

constexpr const char* kCacheTag =
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# This file is a cache directory tag created by tessera.\n"
    "# For information about cache directory tags, see:\n"
    "#\thttps://bford.info/cachedir/\n";

void make_folders(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error && !fs::is_directory(folder))
    fail(ErrorCode::kIo, "{}: cannot make the folder ({}); HF_HUB_CACHE may name another place", folder.string(),
         error.message());
}

RepoFile parse_tree_file(const std::string& name, const Json& in) {
  RepoFile file{.name = name, .size = in.at("size").get<int64_t>(), .blob_id = in.at("blob_id").get<std::string>()};
  file.sha256 = in.value("lfs_sha256", "");
  file.size = in.value("lfs_size", file.size);
  return file;
}

}  // namespace

RepoCache::RepoCache(std::string cache, std::string repo, RepoKind kind)
    : cache_(std::move(cache)), name_(repo_folder_name(repo, kind)), folder_(cache_ + "/" + name_) {
  TS_CHECK(is_repo_name(repo), "{}", repo);
}

std::string RepoCache::blob_path(const std::string& etag) const {
  TS_CHECK(is_blob_name(etag));
  return folder_ + "/blobs/" + etag;
}

std::string RepoCache::snapshot_path(const std::string& commit) const {
  TS_CHECK(is_commit(commit));
  return folder_ + "/snapshots/" + commit;
}

std::string RepoCache::file_path(const std::string& commit, const std::string& file) const {
  TS_CHECK(!objection_to_file_name(file));
  return snapshot_path(commit) + "/" + file;
}

std::optional<std::string> RepoCache::commit_of(const std::string& revision) const {
  if (is_commit(revision)) return revision;
  TS_CHECK(is_revision(revision));
  std::ifstream in(folder_ + "/refs/" + revision, std::ios::binary);
  char text[41] = {};
  in.read(text, 40);
  std::string commit(text, static_cast<size_t>(in.gcount()));
  return is_commit(commit) ? std::optional(commit) : std::nullopt;
}

std::optional<int64_t> RepoCache::file_size(const std::string& commit, const std::string& file) const {
  std::error_code error;
  const fs::path path = file_path(commit, file);
  if (!fs::is_regular_file(path, error)) return std::nullopt;
  auto size = fs::file_size(path, error);
  return error ? std::nullopt : std::optional(static_cast<int64_t>(size));
}

std::optional<RepoListing> RepoCache::read_tree(const std::string& commit) const {
  const std::string path = fmt::format("{}/trees/{}.json", folder_, commit);
  std::error_code error;
  if (!fs::is_regular_file(path, error)) return std::nullopt;
  try {  // another tool's file: of no use when it is not as expected
    Json in = read_json_file(path, int64_t{64} << 20);
    if (in.at("format_version") != 1) return std::nullopt;
    RepoListing listing{.commit = commit};
    for (const auto& [name, entry] : in.at("files").items()) {
      if (objection_to_file_name(name)) return std::nullopt;
      listing.files.push_back(parse_tree_file(name, entry));
    }
    return listing;
  } catch (const Json::exception&) {
    return std::nullopt;
  } catch (const Error&) {
    return std::nullopt;
  }
}

bool RepoCache::known_absent(const std::string& commit, const std::string& file) const {
  TS_CHECK(is_commit(commit) && !objection_to_file_name(file));
  std::error_code ignored;
  return fs::is_regular_file(folder_ + "/.no_exist/" + commit + "/" + file, ignored);
}

void RepoCache::prepare(const std::string& commit) const {
  make_folders(folder_ + "/blobs");
  std::error_code ignored;
  if (!fs::exists(cache_ + "/CACHEDIR.TAG", ignored)) replace_file(cache_ + "/CACHEDIR.TAG", kCacheTag);
  make_folders(folder_ + "/blobs");
  make_folders(folder_ + "/refs");
  make_folders(snapshot_path(commit));
}

void RepoCache::write_ref(const std::string& revision, const std::string& commit) const {
  if (revision == commit || commit_of(revision) == commit) return;
  replace_file(folder_ + "/refs/" + revision, commit);
}

void RepoCache::write_tree(const RepoListing& listing) const {
  Json files = Json::object();
  for (const RepoFile& file : listing.files) {
    if (file.size < 0 || file.blob_id.empty()) return;  // a list with gaps helps nobody
    Json& entry = files[file.name] = {{"size", file.size}, {"blob_id", file.blob_id}};
    if (!file.sha256.empty()) entry["lfs_sha256"] = file.sha256, entry["lfs_size"] = file.size;
  }
  const std::string path = fmt::format("{}/trees/{}.json", folder_, listing.commit);
  std::error_code ignored;
  if (fs::exists(path, ignored)) return;
  replace_file(path, Json({{"format_version", 1}, {"files", files}}).dump(1));
}

void RepoCache::note_absent(const std::string& commit, const std::string& file) const {
  TS_CHECK(is_commit(commit) && !objection_to_file_name(file));
  replace_file(folder_ + "/.no_exist/" + commit + "/" + file, "");
}

void RepoCache::link(const std::string& commit, const std::string& file, const std::string& etag) const {
  const fs::path path = file_path(commit, file);
  make_folders(path.parent_path());
  const fs::path target = fs::path(blob_path(etag)).lexically_relative(path.parent_path());
  std::error_code error;
  if (fs::is_symlink(path, error) && fs::read_symlink(path, error) == target) return;
  fs::remove(path, error);
  fs::create_symlink(target, path, error);
  // A file system without symbolic links: a second name does as well.
  if (error) fs::create_hard_link(blob_path(etag), path, error);
  if (error) fail(ErrorCode::kIo, "{}: cannot be linked to its blob ({})", path.string(), error.message());
}

// Under a lock of its own the half-written file has one name, outside the folders that others list; so a kill leaves at
// most that one, and the next run writes over it.
void RepoCache::replace_file(const std::string& path, const std::string& text) const {
  make_folders(fs::path(path).parent_path());
  FileLock lock(fmt::format("{}/.locks/{}/tessera.lock", cache_, name_), [] {});
  const std::string temporary = folder_ + "/blobs/tessera.tmp";
  std::error_code error;
  std::ofstream out(temporary, std::ios::binary | std::ios::trunc);
  out << text;
  out.close();
  if (!out) fail(ErrorCode::kIo, "{}: cannot be written ({})", path, std::strerror(errno));
  fs::rename(temporary, path, error);
  if (error) fail(ErrorCode::kIo, "{}: cannot be written ({})", path, error.message());
}

FileLock RepoCache::lock_blob(const std::string& etag, const std::function<void()>& wait) const {
  TS_CHECK(is_blob_name(etag));
  return FileLock(fmt::format("{}/.locks/{}/{}.lock", cache_, name_, etag), wait);
}

}  // namespace tessera::hub
