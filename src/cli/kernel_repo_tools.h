// The part of `tessera kernels` that is about repositories of the hub: list REPO, download, info, versions, lock,
// verify.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "hub/kernel_store.h"

namespace tessera::cli {

struct KernelRepoOptions {
  std::string target;  // ORG/NAME, a repository's folder, or a project's
  std::optional<int64_t> version;
  std::string revision, system, lock;
  std::vector<std::string> trusted;
  bool all_variants = false;
};

class KernelRepoTools {
 public:
  // `list`: the subcommand that also lists the program's own kernels; here it takes a REPO.
  void add(CLI::App& kernels, CLI::App& list);
  // The exit code; nullopt: another subcommand was given.
  std::optional<int> run(Invocation& call);

 private:
  KernelRepoOptions options_;
  CLI::App *list_ = nullptr, *download_ = nullptr, *info_ = nullptr, *versions_ = nullptr, *lock_ = nullptr,
           *verify_ = nullptr;
};

}  // namespace tessera::cli
