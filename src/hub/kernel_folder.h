// A variant's folder on this disk: every file hashed once and held against what is known of it - the hub's list, the
// digests of metadata.json, the lock file. Any deviation is an Error that names the file.
#pragma once

#include <string>
#include <vector>

#include "hub/kernel_lock.h"
#include "hub/kernel_repo.h"
#include "hub/server_answers.h"

namespace tessera::hub {

inline constexpr const char* kBuildFolder = "build/";

// Compiled Python: no part of a kernel, never fetched, hashed or locked.
bool is_bytecode(std::string_view name);
// Names below build/ that have files, sorted, each once.
std::vector<std::string> variant_folders(const RepoListing& listing);
// The listing's files of a variant, bytecode left out.
std::vector<const RepoFile*> variant_files(const RepoListing& listing, const std::string& variant);

// What a folder is held against; null: nothing is known.
struct FolderFacts {
  const RepoListing* listing = nullptr;
  const KernelLock* lock = nullptr;  // one without files says nothing of them
};

// Hashes the folder's files into kernel.files, reads its metadata, checks both. REQUIRES: repo, commit, variant and
// folder are set. Throws kCorrupt, kNotFound, kIo.
void read_variant_folder(LocalKernel& kernel, const FolderFacts& facts);

// The shared object with the functions: <id>.so, <id>.abi3.so, or the only one. Throws kUnsupported.
std::string find_library(const LocalKernel& kernel);

}  // namespace tessera::hub
