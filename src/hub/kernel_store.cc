#include "hub/kernel_store.h"

#include <algorithm>
#include <filesystem>

#include "core/env.h"
#include "core/error.h"
#include "core/json.h"
#include "core/log.h"
#include "hub/file_hash.h"
#include "hub/kernel_folder.h"
#include "hub/kernel_search.h"

namespace tessera::hub {

namespace {

namespace fs = std::filesystem;

[[noreturn]] void refuse_all(const std::string& repo, const std::string& revision, const VariantTrace& trace) {
  fail(ErrorCode::kUnsupported, "Cannot find a build variant for this system in {} (revision: {}):\n\n{}", repo,
       revision, trace.decisions.empty() && trace.unknown.empty() ? "it has no build variants" : trace.text());
}

void check_capability(const LocalKernel& kernel, const SystemTarget& target) {
  const KernelMetadata& metadata = kernel.metadata;
  if (target.capability == 0 || metadata.backend != "cuda" || metadata.archs.empty()) return;
  if (archs_support_capability(metadata.archs, target.capability)) return;
  fail(ErrorCode::kUnsupported,
       "{}: CUDA capability {}.{} of the device is not supported by the architectures of the build: {}", kernel.text(),
       target.capability / 10, target.capability % 10, fmt::join(metadata.archs, ", "));
}

void finish(LocalKernel& kernel, const FolderFacts& facts, const SystemTarget& target) {
  read_variant_folder(kernel, facts);
  kernel.library = find_library(kernel);
  check_capability(kernel, target);
  if (kernel.metadata.dirty())
    log::warn(
        "{}: was built from a git tree with uncommitted changes, so its recorded revision does not fully identify "
        "its sources",
        kernel.text());
}

// Every file of every variant. The hub's list knows SHA-256 of the large ones; the small ones are fetched.
KernelLock lock_place(Search& search, const Place& place, std::vector<KernelDependency>& depends) {
  const RepoCache repo = search.cache(place.id.repo);
  KernelLock lock{.commit = place.listing.commit};
  std::vector<std::string> large;
  for (const RepoFile& file : place.listing.files)
    if (!file.sha256.empty()) large.push_back(file.name);
  search.fetch(place, {std::string(kBuildFolder) + "*"}, large);
  for (const std::string& folder : variant_folders(place.listing)) {
    for (const RepoFile* file : variant_files(place.listing, folder)) {
      const std::string path = repo.file_path(lock.commit, file->name);
      lock.files[file->name] =
          file->sha256.empty() ? hash_file(path, {HashKind::kSha256}).hashes.front() : file->sha256;
      if (file->name != kBuildFolder + folder + "/" + kMetadataFile || !file->sha256.empty()) continue;
      const KernelMetadata metadata = parse_kernel_metadata(read_text_file(path, kMaxMetadataBytes), file->name);
      depends.insert(depends.end(), metadata.kernel_depends.begin(), metadata.kernel_depends.end());
    }
  }
  return lock;
}

}  // namespace

std::map<std::string, std::string> parse_local_kernels(std::string_view text) {
  std::map<std::string, std::string> folders;
  while (!text.empty()) {
    const std::string_view entry = text.substr(0, text.find(':'));
    text.remove_prefix(std::min(text.size(), entry.size() + 1));
    const size_t equals = entry.find('=');
    const std::string_view repo = entry.substr(0, equals);
    if (equals == entry.npos || !is_repo_name(repo) || equals + 1 == entry.size())
      fail(ErrorCode::kInvalidArgument, "LOCAL_KERNELS: '{}': expected ORG/NAME=FOLDER, several separated by ':'",
           shown(entry));
    folders[std::string(repo)] = entry.substr(equals + 1);
  }
  return folders;
}

KernelSettings kernel_settings_from_env() {
  KernelSettings settings{.hub = settings_from_env()};
  const std::string cache = env_string(Env::kKernelsCache);
  if (!cache.empty()) settings.hub.cache = fs::absolute(cache).lexically_normal().string();
  settings.local = parse_local_kernels(env_string(Env::kLocalKernels));
  return settings;
}

std::string kernels_switched_off() {
  const std::string off = env_string(Env::kDisableKernelMapping);
  if (!off.empty() && off != "0") return fmt::format("DISABLE_KERNEL_MAPPING={} is set", shown(off));
  std::string use = env_string(Env::kUseHubKernels);
  std::ranges::transform(use, use.begin(), [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  for (const char* no : {"NO", "OFF", "FALSE", "0"})
    if (use == no) return fmt::format("USE_HUB_KERNELS={} is set", no);
  return "";
}

void require_standalone(const LocalKernel& kernel) {
  const std::vector<KernelDependency>& needs = kernel.metadata.kernel_depends;
  if (needs.empty()) return;
  std::string names;
  for (const KernelDependency& need : needs) names += (names.empty() ? "" : ", ") + need.text();
  fail(ErrorCode::kUnsupported, "{}: refused, it depends on other kernels, which only Python's client hands over: {}",
       kernel.text(), names);
}

KernelDependency kernel_request(const std::string& repo, std::optional<int64_t> version, const std::string& revision) {
  if (!is_repo_name(repo) || repo.find('/') == std::string::npos)
    fail(ErrorCode::kInvalidArgument, "'{}' is no kernel's repository; expected ORG/NAME", shown(repo));
  if (version && !revision.empty())
    fail(ErrorCode::kInvalidArgument, "{}: only one of version and revision may be given, not {} and {}", repo,
         *version, shown(revision));
  if (!version && revision.empty())
    fail(ErrorCode::kInvalidArgument,
         "{}: a version or a revision must be given: --version N for a stable version of the kernel, --revision for a "
         "branch, tag or commit",
         repo);
  if (version && *version < 0) fail(ErrorCode::kInvalidArgument, "{}: version {} is below 0", repo, *version);
  if (!version && !is_revision(revision))
    fail(ErrorCode::kInvalidArgument, "{}: '{}' is no branch, tag or commit", repo, shown(revision));
  return {.repo = repo, .version = version, .revision = revision};
}

KernelOffer offered_variants(const KernelSettings& settings, const KernelDependency& request,
                             const SystemTarget& target, const DownloadHooks& hooks) {
  Search search(settings, target, hooks);
  Place place = search.find(request, Network::kForNews, Trust::kNotNeeded);
  return {.repo = place.id.repo,
          .commit = place.listing.commit,
          .requested = requested_text(place.request),
          .redirected_from = place.hops.empty() ? "" : place.hops.front().first.repo,
          .trace = std::move(place.trace)};
}

std::optional<KernelMetadata> offered_metadata(const KernelSettings& settings, const KernelOffer& offer,
                                               const std::string& variant, const DownloadHooks& hooks) {
  const std::string name = kBuildFolder + variant + "/" + kMetadataFile;
  const RepoCache cache(settings.hub.cache, offer.repo, RepoKind::kKernel);
  if (!cache.file_size(offer.commit, name)) {
    if (settings.hub.offline) return std::nullopt;
    const HubId id{offer.repo, offer.commit, RepoKind::kKernel};
    try {
      download_snapshot(settings.hub, {.id = id, .include = {name}}, hooks);
    } catch (const Error& e) {
      if (e.code() != ErrorCode::kNotFound) throw;
      return std::nullopt;
    }
  }
  const std::string path = cache.file_path(offer.commit, name);
  return parse_kernel_metadata(read_text_file(path, kMaxMetadataBytes), offer.repo + "/" + name);
}

LocalKernel get_kernel(const KernelSettings& settings, const KernelDependency& request, const SystemTarget& target,
                       const DownloadHooks& hooks) {
  if (auto local = settings.local.find(request.repo); local != settings.local.end())
    return open_local_kernel(request.repo, local->second, target);
  Search search(settings, target, hooks);
  const Place place = search.find(request, Network::kForMissing, Trust::kRequired);
  const KernelVariant* variant = place.whole ? place.whole : place.trace.chosen();
  if (!variant) refuse_all(place.id.repo, requested_text(place.request), place.trace);
  if (!place.whole) search.fetch(place, {kBuildFolder + variant->name + "/*"});
  LocalKernel kernel{.repo = place.id.repo,
                     .requested = requested_text(place.request),
                     .commit = place.listing.commit,
                     .variant = *variant};
  const RepoCache repo = search.cache(place.id.repo);
  kernel.folder = repo.snapshot_path(kernel.commit) + "/" + kBuildFolder + variant->name;
  finish(kernel, {.listing = &place.listing, .lock = place.lock}, target);
  return kernel;
}

KernelLocks lock_kernels(const KernelSettings& settings, std::vector<KernelDependency> requests,
                         const DownloadHooks& hooks) {
  TS_CHECK(!settings.locks);
  const SystemTarget target = cpu_target();
  Search search(settings, target, hooks);
  KernelLocks locks;
  while (!requests.empty()) {
    const KernelDependency request = requests.back();
    requests.pop_back();
    if (locks.contains(request)) continue;
    const Place place = search.find(request, Network::kForNews, Trust::kRequired);
    for (const auto& [hop, commit] : place.hops) locks[hop] = {.commit = commit};
    locks[place.request] = lock_place(search, place, requests);
  }
  return locks;
}

std::string download_all_variants(const KernelSettings& settings, const KernelDependency& request,
                                  const DownloadHooks& hooks) {
  const SystemTarget target = cpu_target();
  Search search(settings, target, hooks);
  const Place place = search.find(request, Network::kForNews, Trust::kRequired);
  search.fetch(place, {std::string(kBuildFolder) + "*"});
  return search.cache(place.id.repo).snapshot_path(place.listing.commit) + "/build";
}

std::map<int64_t, std::string> kernel_versions(const KernelSettings& settings, const std::string& repo,
                                               const DownloadHooks& hooks) {
  if (!settings.hub.offline) {
    auto check = [&] {
      if (hooks.cancelled && hooks.cancelled()) fail(ErrorCode::kCancelled, "{}: stopped", repo);
    };
    return HubClient(settings.hub, check).kernel_versions(repo);
  }
  std::map<int64_t, std::string> versions;
  const RepoCache cache(settings.hub.cache, repo, RepoKind::kKernel);
  std::error_code error;
  for (fs::directory_iterator it(cache.folder() + "/refs", error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    const std::optional<int64_t> version = version_of_branch(name);
    const std::optional<std::string> commit = version ? cache.commit_of(name) : std::nullopt;
    if (commit) versions[*version] = *commit;
  }
  return versions;
}

std::vector<VariantCheck> verify_kernel(const KernelSettings& settings, const KernelDependency& request,
                                        const DownloadHooks& hooks) {
  const SystemTarget target = cpu_target();
  Search search(settings, target, hooks);
  const Place place = search.find(request, Network::kForMissing, Trust::kNotNeeded);
  std::vector<VariantCheck> checks;
  for (const std::string& folder : variant_folders(place.listing)) {
    VariantCheck check{.variant = folder, .commit = place.listing.commit, .cached = search.is_whole(place, folder)};
    if (check.cached) {
      LocalKernel kernel{
          .repo = place.id.repo, .requested = requested_text(place.request), .commit = place.listing.commit};
      kernel.variant.name = folder;
      kernel.folder = search.cache(place.id.repo).snapshot_path(kernel.commit) + "/" + kBuildFolder + folder;
      try {
        read_variant_folder(kernel, {.listing = &place.listing, .lock = place.lock});
      } catch (const Error& e) {
        check.problem = e.what();
      }
      check.files = static_cast<int>(kernel.files.size());
      check.has_digest = kernel.metadata.digest.has_value();
      check.has_signature = std::ranges::find(kernel.files, kSignatureFile, &KernelFile::name) != kernel.files.end();
      if (kernel.signer) check.signer = kernel.signer->workflow;
      check.locked = place.lock && !place.lock->files.empty();
    }
    checks.push_back(std::move(check));
  }
  return checks;
}

LocalKernel open_local_kernel(const std::string& repo, const std::string& folder, const SystemTarget& target) {
  LocalKernel kernel{.repo = repo, .requested = folder};
  VariantTrace trace;
  for (const std::string& base : {folder, folder + "/build"}) {
    std::vector<std::string> names;
    std::error_code error;
    for (fs::directory_iterator it(base, error), end; !error && it != end; it.increment(error))
      if (it->is_directory()) names.push_back(it->path().filename().string());
    trace = resolve_variants(names, target);
    if (!trace.chosen()) continue;
    kernel.variant = *trace.chosen();
    kernel.folder = base + "/" + kernel.variant.name;
    break;
  }
  if (kernel.folder.empty()) {  // perhaps a variant itself
    std::error_code error;
    if (!fs::exists(folder + "/" + kMetadataFile, error)) refuse_all(repo, folder, trace);
    const fs::path path = fs::absolute(folder).lexically_normal();
    const std::string name = (path.has_filename() ? path : path.parent_path()).filename().string();
    kernel.variant = parse_kernel_variant(name).value_or(KernelVariant{.name = name});
    kernel.folder = folder;
  }
  finish(kernel, {}, target);
  return kernel;
}

}  // namespace tessera::hub
