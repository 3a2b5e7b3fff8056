// The way from a kernel's name to a commit and its list of files: publisher's trust, lock, cache, hub, redirects.
// Used by kernel_store.cc. One thread.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/error.h"
#include "hub/hub_client.h"
#include "hub/kernel_store.h"
#include "hub/repo_cache.h"

namespace tessera::hub {

enum class Trust {
  kRequired,   // the kernel will be run
  kNotNeeded,  // looked at only
};

enum class Network {
  kForNews,     // the hub is asked what a version or branch is now
  kForMissing,  // only when the cache has no variant that serves
};

// Where a request has led, and what is there.
struct Place {
  KernelDependency request;                                    // of this repository
  HubId id;                                                    // kind kKernel; the revision is the commit
  std::vector<std::pair<KernelDependency, std::string>> hops;  // repositories that sent on to here, and their commits
  RepoListing listing;
  VariantTrace trace;
  const KernelLock* lock = nullptr;
  const KernelVariant* whole = nullptr;  // the best variant that is in the cache with all its files
};

class Search {
 public:
  Search(const KernelSettings& settings, const SystemTarget& target, const DownloadHooks& hooks)
      : settings_(settings), target_(target), hooks_(hooks) {}

  // Follows redirects. Throws kNotFound, as HubClient, and for untrusted publishers.
  Place find(KernelDependency request, Network network, Trust trust);
  // Downloads files of build/ that match; `exclude`: patterns.
  void fetch(const Place& place, const std::vector<std::string>& include, std::vector<std::string> exclude = {});
  // Are all files of the variant in the cache?
  bool is_whole(const Place& place, const std::string& variant) const;
  RepoCache cache(const std::string& repo) const { return {settings_.hub.cache, repo, RepoKind::kKernel}; }

 private:
  HubClient client(const std::string& repo) const {
    return HubClient(settings_.hub, [this, repo] {
      if (hooks_.cancelled && hooks_.cancelled()) fail(ErrorCode::kCancelled, "{}: stopped", repo);
    });
  }
  void check_trust(const std::string& repo) const;
  const KernelLock* lock_of(const KernelDependency& request) const;
  std::optional<Place> in_cache(const KernelDependency& request) const;
  Place on_hub(const KernelDependency& request);
  std::string commit_on_hub(HubClient& client, const KernelDependency& request) const;
  std::optional<KernelRedirect> redirect(const Place& place);

  const KernelSettings& settings_;
  const SystemTarget& target_;
  const DownloadHooks& hooks_;
};

// "v3", or the revision.
std::string requested_text(const KernelDependency& request);

}  // namespace tessera::hub
