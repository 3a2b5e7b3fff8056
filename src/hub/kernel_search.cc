#include "hub/kernel_search.h"

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "core/json.h"
#include "core/log.h"
#include "hub/kernel_folder.h"

namespace tessera::hub {

namespace {

namespace fs = std::filesystem;

constexpr int kMaxRedirects = 4;
constexpr const char* kStatusFile = "kernel-status.toml";
constexpr const char* kTrustNote = "trusted-publisher";  // in the repository's folder: the endpoint that said so
constexpr int64_t kMaxStatusBytes = int64_t{1} << 20;

// A snapshot whose list of files another tool did not keep: what is there.
RepoListing list_snapshot(const RepoCache& repo, const std::string& commit) {
  RepoListing listing{.commit = commit};
  std::error_code error;
  const std::string folder = repo.snapshot_path(commit);
  for (fs::recursive_directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().lexically_relative(folder).string();
    if (it->is_directory() || objection_to_file_name(name)) continue;
    const fs::path target = fs::read_symlink(it->path(), error);
    RepoFile file{.name = name};
    const std::string etag = error ? "" : target.filename().string();
    if (is_hex(etag, 64)) file.sha256 = etag;
    if (is_hex(etag, 40)) file.blob_id = etag;
    error.clear();
    listing.files.push_back(std::move(file));
  }
  std::ranges::sort(listing.files, {}, &RepoFile::name);
  return listing;
}

bool is_moved(const RepoListing& listing) {
  return std::ranges::binary_search(listing.files, kStatusFile, {}, &RepoFile::name);
}

}  // namespace

std::string requested_text(const KernelDependency& request) {
  return request.version ? fmt::format("v{}", *request.version) : request.revision;
}

// Whoever publishes kernels runs code here. The hub's own flag decides, as for Python's client; what it said is noted
// beside the cached files, so that the next use asks nobody.
void Search::check_trust(const std::string& repo) const {
  if (std::ranges::find(settings_.trusted_repos, repo) != settings_.trusted_repos.end()) return;
  const std::string note = cache(repo).folder() + "/" + kTrustNote;
  std::error_code ignored;
  if (fs::is_regular_file(note, ignored) && read_text_file(note, 4096) == settings_.hub.endpoint) return;
  if (settings_.hub.offline) {
    log::warn("{}: its publisher's trust cannot be checked, HF_HUB_OFFLINE is set; it is taken as it is in the cache",
              repo);
    return;
  }
  const std::optional<bool> trusted = client(repo).is_trusted_publisher(repo.substr(0, repo.find('/')));
  if (!trusted)
    fail(ErrorCode::kInvalidArgument,
         "{0}: the hub does not say whether its publisher is trusted; --trust-remote-code "
         "{0} runs its code all the same",
         repo);
  if (!*trusted)
    fail(ErrorCode::kInvalidArgument,
         "{0}: is not from a trusted publisher; --trust-remote-code {0} runs its code "
         "all the same",
         repo);
  fs::create_directories(cache(repo).folder(), ignored);
  write_text_file(note, settings_.hub.endpoint);
}

const KernelLock* Search::lock_of(const KernelDependency& request) const {
  if (!settings_.locks) return nullptr;
  for (const auto& [kernel, lock] : *settings_.locks) {
    const bool older_form = kernel.repo == request.repo && kernel.revision == lock.commit;
    if (kernel == request || older_form || (kernel.repo == request.repo && lock.commit == request.revision))
      return &lock;
  }
  fail(ErrorCode::kInvalidArgument,
       "{}: is not locked in {}; add it to pyproject.toml and run 'tessera kernels lock DIR'", request.text(),
       kLockFile);
}

bool Search::is_whole(const Place& place, const std::string& variant) const {
  const RepoCache repo = cache(place.id.repo);
  const std::vector<const RepoFile*> files = variant_files(place.listing, variant);
  return std::ranges::all_of(files, [&](const RepoFile* file) {
    const std::optional<int64_t> size = repo.file_size(place.listing.commit, file->name);
    return size && (file->size < 0 || *size == file->size);
  });
}

std::optional<Place> Search::in_cache(const KernelDependency& request) const {
  const RepoCache repo = cache(request.repo);
  Place place{.request = request, .lock = lock_of(request)};
  const std::optional<std::string> commit =
      place.lock ? std::optional(place.lock->commit) : repo.commit_of(requested_text(request));
  if (!commit) return std::nullopt;
  place.id = {request.repo, *commit, RepoKind::kKernel};
  std::optional<RepoListing> tree = repo.read_tree(*commit);
  place.listing = tree ? *std::move(tree) : list_snapshot(repo, *commit);
  if (place.listing.files.empty()) return std::nullopt;
  place.trace = resolve_variants(variant_folders(place.listing), target_);
  for (const VariantDecision& decision : place.trace.decisions)
    if (!place.whole && decision.accepted() && is_whole(place, decision.variant.name)) place.whole = &decision.variant;
  return place;
}

std::string Search::commit_on_hub(HubClient& client, const KernelDependency& request) const {
  if (!request.version) return client.kernel_commit({request.repo, request.revision, RepoKind::kKernel});
  const std::map<int64_t, std::string> versions = client.kernel_versions(request.repo);
  const auto found = versions.find(*request.version);
  if (found == versions.end()) {
    std::string list;
    for (const auto& [version, commit] : versions) list += fmt::format("{}{}", list.empty() ? "" : ", ", version);
    fail(ErrorCode::kNotFound, "{}: version {} not found, available versions: {}", request.repo, *request.version,
         list.empty() ? "none; give a revision" : list);
  }
  if (found->first < versions.rbegin()->first)
    log::warn("You are using version {} of '{}', but version {} is available.", found->first, request.repo,
              versions.rbegin()->first);
  return found->second;
}

Place Search::on_hub(const KernelDependency& request) {
  const RepoCache repo = cache(request.repo);
  HubClient hub = client(request.repo);
  Place place{.request = request, .lock = lock_of(request)};
  const std::string commit = place.lock ? place.lock->commit : commit_on_hub(hub, request);
  place.id = {request.repo, commit, RepoKind::kKernel};
  std::optional<RepoListing> tree = repo.read_tree(commit);
  place.listing = tree ? *std::move(tree) : hub.list(place.id);
  place.trace = resolve_variants(variant_folders(place.listing), target_);
  return place;
}

std::optional<KernelRedirect> Search::redirect(const Place& place) {
  if (!is_moved(place.listing)) return std::nullopt;
  const RepoCache repo = cache(place.id.repo);
  const std::string where = place.id.repo + "/" + kStatusFile;
  if (!repo.file_size(place.listing.commit, kStatusFile)) fetch(place, {kStatusFile});
  const KernelRedirect target =
      parse_kernel_status(read_text_file(repo.file_path(place.listing.commit, kStatusFile), kMaxStatusBytes), where);
  log::warn("'{}' redirected to '{}'", place.id.repo, target.repo);
  return target;
}

Place Search::find(KernelDependency request, Network network, Trust trust) {
  std::vector<std::pair<KernelDependency, std::string>> hops;
  for (int hop = 0; hop <= kMaxRedirects; ++hop) {
    if (trust == Trust::kRequired) check_trust(request.repo);
    std::optional<Place> place;
    if (network == Network::kForMissing || settings_.hub.offline) place = in_cache(request);
    if (settings_.hub.offline && !place)
      fail(ErrorCode::kNotFound,
           "{}: is not in the cache {}, and HF_HUB_OFFLINE is set; fetch it once without ('tessera "
           "kernels download')",
           request.text(), settings_.hub.cache);
    if (!place || (!place->whole && !is_moved(place->listing) && !settings_.hub.offline)) place = on_hub(request);
    std::optional<KernelRedirect> target = redirect(*place);
    if (!target) {
      place->hops = std::move(hops);
      return *std::move(place);
    }
    hops.emplace_back(request, place->listing.commit);
    request = {.repo = target->repo, .version = std::nullopt, .revision = target->revision};
  }
  fail(ErrorCode::kCorrupt, "{}: {} repositories in a row send on to another one; refused", hops.front().first.repo,
       hops.size());
}

void Search::fetch(const Place& place, const std::vector<std::string>& include, std::vector<std::string> exclude) {
  if (settings_.hub.offline)
    fail(ErrorCode::kNotFound, "{}@{}: not whole in the cache {}, and HF_HUB_OFFLINE is set; unset it once",
         place.id.repo, requested_text(place.request), settings_.hub.cache);
  const RepoCache repo = cache(place.id.repo);
  repo.prepare(place.listing.commit);
  repo.write_tree(place.listing);
  for (const char* bytecode : {"*.pyc", "__pycache__/*", "*/__pycache__/*"}) exclude.push_back(bytecode);
  download_snapshot(settings_.hub, {.id = place.id, .include = include, .exclude = exclude}, hooks_);
  repo.write_ref(requested_text(place.request), place.listing.commit);
}

}  // namespace tessera::hub
