// From a kernel's name to its checked files on this disk: publisher's trust, version to commit, redirect, choice of the
// variant, download of its files only, digests and lock. The one cache is Python's: kernels--ORG--NAME beside models.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "hub/download.h"
#include "hub/kernel_lock.h"
#include "hub/kernel_repo.h"
#include "hub/settings.h"

namespace tessera::hub {

struct KernelSettings {
  HubSettings hub;                           // its cache is KERNELS_CACHE when that is set
  std::map<std::string, std::string> local;  // LOCAL_KERNELS: ORG/NAME -> folder
  std::vector<std::string> trusted_repos;    // --trust-remote-code: ORG/NAME, whoever publishes them
  std::optional<KernelLocks> locks;          // kernels.lock: then nothing else is taken
};

// HubSettings with KERNELS_CACHE and LOCAL_KERNELS. Throws kInvalidArgument, naming the variable.
KernelSettings kernel_settings_from_env();
// Which variable says that no kernels of the hub are wanted, "DISABLE_KERNEL_MAPPING=1 is set"; empty: none.
std::string kernels_switched_off();
// "ORG/NAME=folder:ORG2/NAME2=folder2". Throws kInvalidArgument.
std::map<std::string, std::string> parse_local_kernels(std::string_view text);

// A kernel as users name it. Exactly one of version and revision, else kInvalidArgument.
KernelDependency kernel_request(const std::string& repo, std::optional<int64_t> version, const std::string& revision);

// What a repository offers to a system.
struct KernelOffer {
  std::string repo, commit, requested;
  std::string redirected_from;  // ORG/NAME; empty: not redirected
  VariantTrace trace;
};

// Asks the network unless offline; runs nothing, so anybody may publish. Throws as HubClient, and kNotFound.
KernelOffer offered_variants(const KernelSettings& settings, const KernelDependency& request,
                             const SystemTarget& target, const DownloadHooks& hooks = {});

// What one of its variants says of itself; nullopt: it has no metadata.json, or that is not here while offline.
std::optional<KernelMetadata> offered_metadata(const KernelSettings& settings, const KernelOffer& offer,
                                               const std::string& variant, const DownloadHooks& hooks = {});

// The kernel, from the cache when that has all of it, else downloaded. Throws kUnsupported with the whole trace when no
// variant serves, kInvalidArgument for an untrusted publisher, kCorrupt when a hash deviates, and as HubClient.
LocalKernel get_kernel(const KernelSettings& settings, const KernelDependency& request, const SystemTarget& target,
                       const DownloadHooks& hooks = {});
// Kernels get what they depend on (kernel-depends) from Python's client, through Python. Throws kUnsupported, naming
// them, for a kernel that depends on any.
void require_standalone(const LocalKernel& kernel);
// The files of every variant, in the cache; the snapshot's build/ folder. Throws as get_kernel.
std::string download_all_variants(const KernelSettings& settings, const KernelDependency& request,
                                  const DownloadHooks& hooks = {});

// What a project's kernels are now, with all that they depend on: every file of every variant by its SHA-256. Throws as
// HubClient. REQUIRES: no settings.locks.
KernelLocks lock_kernels(const KernelSettings& settings, std::vector<KernelDependency> requests,
                         const DownloadHooks& hooks = {});

struct VariantCheck {
  std::string variant, commit;
  bool cached = false;  // whole in the cache; nothing else can be checked
  int files = 0;
  bool has_digest = false, has_signature = false, locked = false;  // what it was held against
  std::string signer;                                              // whom the signature's certificate names
  std::string problem;  // empty: every file is what the hub, the digest and the lock say
};
// Every variant of a kernel, read again and checked.
std::vector<VariantCheck> verify_kernel(const KernelSettings& settings, const KernelDependency& request,
                                        const DownloadHooks& hooks = {});

// The versions of a repository, "v<N>" branches, with their commits; offline: those that the cache knows.
std::map<int64_t, std::string> kernel_versions(const KernelSettings& settings, const std::string& repo,
                                               const DownloadHooks& hooks = {});

// A repository's or a variant's folder on this disk.
LocalKernel open_local_kernel(const std::string& repo, const std::string& folder, const SystemTarget& target);

}  // namespace tessera::hub
