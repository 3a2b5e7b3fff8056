#include "hub/kernel_folder.h"

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "core/json.h"
#include "hub/file_hash.h"
#include "hub/hub_id.h"
#include "hub/kernel_signature.h"

namespace tessera::hub {

namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxFiles = 100'000;
constexpr size_t kMaxShown = 3;  // deviations in one message

std::vector<std::string> files_below(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  fs::recursive_directory_iterator it(folder, error), end;
  for (; !error && it != end; it.increment(error)) {
    std::error_code ignored;
    if (it->is_directory(ignored)) continue;
    std::string name = fs::path(it->path()).lexically_relative(folder).string();
    if (is_bytecode(name)) continue;
    if (names.size() == kMaxFiles) fail(ErrorCode::kCorrupt, "{}: more than {} files", folder, kMaxFiles);
    names.push_back(std::move(name));
  }
  if (error) fail(ErrorCode::kIo, "{}: cannot be read ({})", folder, error.message());
  std::ranges::sort(names);
  return names;
}

std::string bytes_of_hex(std::string_view hex) {
  auto digit = [](char c) { return c <= '9' ? c - '0' : c - 'a' + 10; };
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) bytes += static_cast<char>(digit(hex[i]) << 4 | digit(hex[i + 1]));
  return bytes;
}

[[noreturn]] void refuse_deviations(const LocalKernel& kernel, const char* from,
                                    const std::vector<std::string>& lines) {
  std::string text;
  for (size_t i = 0; i < std::min(lines.size(), kMaxShown); ++i) text += (i > 0 ? "; " : "") + lines[i];
  if (lines.size() > kMaxShown) text += fmt::format("; and {} more", lines.size() - kMaxShown);
  const std::string advice =
      kernel.commit.empty() ? "" : fmt::format("; 'tessera cache delete {}' and fetch it again", kernel.repo);
  fail(ErrorCode::kCorrupt, "{}: refused, it deviates from {}: {}{}", kernel.text(), from, text, advice);
}

// One file, in every hash that somebody knows it by.
class FileFactsOf {
 public:
  FileFactsOf(const LocalKernel& kernel, const std::string& name, const RepoFile* published) {
    kinds_ = {HashKind::kSha256};
    const std::string etag = published ? published->etag() : "";
    if (is_hex(etag, 40)) kinds_.push_back(HashKind::kGitSha1);
    if (kernel.metadata.digest && kernel.metadata.digest->algorithm == "sha512") kinds_.push_back(HashKind::kSha512);
    hashes_ = hash_file(kernel.folder + "/" + name, kinds_);
    const std::string found = is_hex(etag, 64) ? of(HashKind::kSha256) : of(HashKind::kGitSha1);
    if (published && !found.empty() && (is_hex(etag, 64) || is_hex(etag, 40)) && found != etag)
      objection_ = fmt::format("File hash mismatch for {}: expected: {}, got: {}", name, etag, found);
  }

  std::string of(HashKind kind) const {
    const auto it = std::ranges::find(kinds_, kind);
    return it == kinds_.end() ? "" : hashes_.hashes[static_cast<size_t>(it - kinds_.begin())];
  }
  int64_t size() const { return hashes_.size; }
  const std::string& objection() const { return objection_; }

 private:
  std::vector<HashKind> kinds_;
  FileHashes hashes_;
  std::string objection_;
};

void check_lock(const LocalKernel& kernel, const KernelLock& lock) {
  const std::string prefix = kBuildFolder + kernel.variant.name + "/";
  std::vector<std::string> lines;
  for (const KernelFile& file : kernel.files) {
    const auto locked = lock.files.find(prefix + file.name);
    if (locked == lock.files.end()) {
      lines.push_back("Unknown file: " + file.name);
    } else if (locked->second != file.sha256) {
      lines.push_back(
          fmt::format("File hash mismatch for {}: expected: {}, got: {}", file.name, locked->second, file.sha256));
    }
  }
  for (auto it = lock.files.lower_bound(prefix); it != lock.files.end() && it->first.starts_with(prefix); ++it) {
    const std::string name = it->first.substr(prefix.size());
    if (!std::ranges::binary_search(kernel.files, name, {}, &KernelFile::name))
      lines.push_back("Missing file: " + name);
  }
  if (!lines.empty()) refuse_deviations(kernel, kFilesLockFile, lines);
}

}  // namespace

bool is_bytecode(std::string_view name) {
  return name.ends_with(".pyc") || name.starts_with("__pycache__/") || name.find("/__pycache__/") != name.npos;
}

std::vector<std::string> variant_folders(const RepoListing& listing) {
  constexpr std::string_view kBuild = kBuildFolder;
  std::vector<std::string> folders;
  for (const RepoFile& file : listing.files) {
    const size_t slash = file.name.find('/', kBuild.size());
    if (file.name.starts_with(kBuild) && slash != file.name.npos)
      folders.push_back(file.name.substr(kBuild.size(), slash - kBuild.size()));
  }
  std::ranges::sort(folders);
  folders.erase(std::unique(folders.begin(), folders.end()), folders.end());
  return folders;
}

std::vector<const RepoFile*> variant_files(const RepoListing& listing, const std::string& variant) {
  std::vector<const RepoFile*> files;
  for (const RepoFile& file : listing.files)
    if (file.name.starts_with(kBuildFolder + variant + "/") && !is_bytecode(file.name)) files.push_back(&file);
  return files;
}

void read_variant_folder(LocalKernel& kernel, const FolderFacts& facts) {
  const std::string prefix = kBuildFolder + kernel.variant.name + "/";
  const std::string metadata = read_text_file(kernel.folder + "/" + kMetadataFile, kMaxMetadataBytes);
  const std::string signature = kernel.folder + "/" + kSignatureFile;
  if (std::error_code ignored; fs::exists(signature, ignored))
    kernel.signer = check_kernel_signature(read_text_file(signature, kMaxSignatureBytes), metadata,
                                           kernel.text() + "/" + kSignatureFile);
  kernel.metadata = parse_kernel_metadata(metadata, kernel.text() + "/" + kMetadataFile);
  const bool sha512 = kernel.metadata.digest && kernel.metadata.digest->algorithm == "sha512";
  KernelDigest actual{.algorithm = sha512 ? "sha512" : "sha256"};
  std::vector<std::string> lines;
  for (const std::string& name : files_below(kernel.folder)) {
    const RepoFile* published = nullptr;
    if (facts.listing) {
      const auto it = std::ranges::lower_bound(facts.listing->files, prefix + name, {}, &RepoFile::name);
      if (it != facts.listing->files.end() && it->name == prefix + name) published = &*it;
      if (!published) lines.push_back("Unknown file: " + shown(name));
    }
    const FileFactsOf hashes(kernel, name, published);
    if (!hashes.objection().empty()) lines.push_back(hashes.objection());
    kernel.files.push_back({name, hashes.size(), hashes.of(HashKind::kSha256)});
    if (is_digested_file(name))
      actual.files[name] = to_base64(bytes_of_hex(hashes.of(sha512 ? HashKind::kSha512 : HashKind::kSha256)));
  }
  if (facts.listing) {
    for (const RepoFile* file : variant_files(*facts.listing, kernel.variant.name))
      if (!std::ranges::binary_search(kernel.files, file->name.substr(prefix.size()), {}, &KernelFile::name))
        lines.push_back("Missing file: " + file->name.substr(prefix.size()));
  }
  if (!lines.empty()) refuse_deviations(kernel, "what the hub published", lines);
  if (kernel.metadata.digest) lines = digest_violations(*kernel.metadata.digest, actual);
  if (!lines.empty()) refuse_deviations(kernel, "the digest of its metadata.json", lines);
  if (facts.lock && !facts.lock->files.empty()) check_lock(kernel, *facts.lock);
}

std::string find_library(const LocalKernel& kernel) {
  std::vector<std::string> libraries;
  for (const KernelFile& file : kernel.files)
    if (file.name.ends_with(".so")) libraries.push_back(file.name);
  for (const char* suffix : {".so", ".abi3.so"})
    if (std::ranges::find(libraries, kernel.metadata.id + suffix) != libraries.end())
      return kernel.metadata.id + suffix;
  if (libraries.size() == 1) return libraries.front();
  fail(ErrorCode::kUnsupported, "{}: has {} shared objects (*.so); expected one, or one called {}.so", kernel.text(),
       libraries.size(), shown(kernel.metadata.id));
}

}  // namespace tessera::hub
