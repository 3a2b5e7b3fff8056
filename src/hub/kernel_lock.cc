#include "hub/kernel_lock.h"

#include <filesystem>

#include "core/error.h"
#include "hub/hub_id.h"
#include "hub/json_reader.h"

namespace tessera::hub {

namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxLockBytes = int64_t{64} << 20;
constexpr int64_t kFilesFormat = 1;

std::string require_commit(std::string commit, const std::string& where) {
  if (!is_commit(commit)) fail(ErrorCode::kCorrupt, "{}: '{}' is no commit of 40 digits", where, shown(commit));
  return commit;
}

Json parse_list(std::string_view json, const std::string& where) {
  Json list = parse_foreign_json(json, where, kMaxLockBytes);
  if (!list.is_array()) fail(ErrorCode::kCorrupt, "{}: expected a list of locked kernels", where);
  return list;
}

// {repo_id, sha, variants}: what clients before 0.17 wrote. Their hashes cover Torch's variants only.
std::pair<KernelDependency, KernelLock> parse_older(const Json& entry, const std::string& where) {
  JsonReader in(entry, where);
  KernelDependency kernel{.repo = in.string("repo_id")};
  if (!is_repo_name(kernel.repo))
    fail(ErrorCode::kCorrupt, "{}: '{}' is no repository's name", where, shown(kernel.repo));
  kernel.revision = require_commit(in.string("sha"), where);
  return {kernel, {.commit = kernel.revision}};
}

Json dependency_json(const KernelDependency& kernel) {
  Json out{{"repo-id", kernel.repo}};
  kernel.version ? out["version"] = *kernel.version : out["revision"] = kernel.revision;
  return out;
}

void add_files(KernelLock& lock, const Json& files, const std::string& where) {
  if (!files.is_object()) fail(ErrorCode::kCorrupt, "{}: \"files\" is no object", where);
  for (const auto& [name, hash] : files.items()) {
    if (const char* why = objection_to_file_name(name))
      fail(ErrorCode::kCorrupt, "{}: refused, it names the file '{}', whose name {}", where, shown(name), why);
    if (!hash.is_string() || !is_hex(hash.get_ref<const std::string&>(), 64))
      fail(ErrorCode::kCorrupt, "{}: the hash of '{}' is no SHA-256 of 64 digits", where, shown(name));
    lock.files[name] = hash.get<std::string>();
  }
}

}  // namespace

KernelLocks parse_kernel_locks(std::string_view json, const std::string& where) {
  KernelLocks locks;
  for (const Json& entry : parse_list(json, where)) {
    std::pair<KernelDependency, KernelLock> row;
    if (entry.is_object() && entry.contains("repo_id")) {
      row = parse_older(entry, where);
    } else {
      JsonReader in(entry, where);
      in.only({"dependency", "lock"});
      JsonReader lock(in.at("lock"), where);
      lock.only({"commit"});
      row = {parse_kernel_dependency(in.at("dependency"), where), {require_commit(lock.string("commit"), where), {}}};
    }
    if (!locks.insert(row).second) fail(ErrorCode::kCorrupt, "{}: {} is locked twice", where, row.first.text());
  }
  return locks;
}

void add_file_locks(KernelLocks& locks, std::string_view json, const std::string& where) {
  const Json object = parse_foreign_json(json, where, kMaxLockBytes);
  JsonReader in(object, where);
  if (in.natural("format") != kFilesFormat)
    fail(ErrorCode::kCorrupt, "{}: format {}; this program knows {}", where, in.natural("format"), kFilesFormat);
  in.at("kernels");
  for (const Json& entry : *in.list("kernels")) {
    JsonReader row(entry, where);
    const KernelDependency kernel = parse_kernel_dependency(row.at("dependency"), where);
    auto lock = locks.find(kernel);
    if (lock == locks.end() || lock->second.commit != row.string("commit"))
      fail(ErrorCode::kCorrupt, "{}: {} is locked otherwise in {}; lock again", where, kernel.text(), kLockFile);
    add_files(lock->second, row.at("files"), where);
  }
}

std::string kernel_locks_text(const KernelLocks& locks) {
  OrderedJson list = OrderedJson::array();
  for (const auto& [kernel, lock] : locks)
    list.push_back({{"dependency", dependency_json(kernel)}, {"lock", {{"commit", lock.commit}}}});
  return list.dump(2);
}

std::string file_locks_text(const KernelLocks& locks) {
  OrderedJson kernels = OrderedJson::array();
  for (const auto& [kernel, lock] : locks)
    kernels.push_back({{"dependency", dependency_json(kernel)}, {"commit", lock.commit}, {"files", lock.files}});
  return OrderedJson{{"format", kFilesFormat}, {"kernels", kernels}}.dump(2) + "\n";
}

KernelLocks read_kernel_locks(const std::string& path) {
  std::error_code ignored;
  const fs::path lock = fs::is_directory(path, ignored) ? fs::path(path) / kLockFile : fs::path(path);
  if (!fs::is_regular_file(lock, ignored))
    fail(ErrorCode::kNotFound, "{}: no such file; 'tessera kernels lock DIR' writes it", lock.string());
  KernelLocks locks = parse_kernel_locks(read_text_file(lock.string(), kMaxLockBytes), lock.string());
  const fs::path files = lock.parent_path() / kFilesLockFile;
  if (fs::is_regular_file(files, ignored))
    add_file_locks(locks, read_text_file(files.string(), kMaxLockBytes), files.string());
  return locks;
}

}  // namespace tessera::hub
