#include "hub/download.h"

#include <sys/statvfs.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <filesystem>
#include <mutex>
#include <thread>

#include "core/error.h"
#include "core/json.h"
#include "core/log.h"
#include "hub/blob_download.h"
#include "hub/hub_client.h"
#include "hub/repo_cache.h"

namespace tessera::hub {

namespace {

namespace fs = std::filesystem;

// What the worker threads of a download share.
class Fleet {
 public:
  Fleet(const HubSettings& settings, const HubId& id, const RepoListing& listing, const DownloadHooks& hooks)
      : settings_(settings), id_(id), listing_(listing), cache_(settings.cache, id.repo, id.kind), hooks_(hooks) {}

  // Fetches what is missing of these files; the caller's thread reports progress.
  void fetch(std::vector<const RepoFile*> files);

  DownloadProgress progress() const { return {bytes_, bytes_done_, bytes_fetched_, files_, files_done_}; }
  std::vector<DownloadedFile> take_files() { return std::move(done_); }
  const RepoCache& cache() const { return cache_; }
  // Throws kCancelled when the user or a sibling's failure wants an end.
  void check() const {
    if (stop_ || (hooks_.cancelled && hooks_.cancelled()))
      fail(ErrorCode::kCancelled, "{}: stopped; what has come is kept, and the next run goes on from it", id_.text());
  }

 private:
  void work();
  void fetch_one(HubClient& client, const RepoFile& file);
  BlobTask make_task(HubClient& client, const RepoFile& file, const FileFacts& facts, std::string url);
  void check_space(const std::vector<const RepoFile*>& files) const;
  bool blob_is_there(const std::string& etag, int64_t size) const;

  const HubSettings& settings_;
  const HubId& id_;
  const RepoListing& listing_;
  const RepoCache cache_;
  const DownloadHooks& hooks_;

  std::mutex mutex_;  // guards queue_, next_, done_, failure_, working_
  std::condition_variable changed_;
  std::vector<const RepoFile*> queue_;
  size_t next_ = 0;
  int working_ = 0;
  std::vector<DownloadedFile> done_;
  std::exception_ptr failure_;

  std::atomic<bool> stop_{false};
  std::atomic<int64_t> bytes_{0}, bytes_done_{0}, bytes_fetched_{0};
  std::atomic<int> files_{0}, files_done_{0};
};

bool Fleet::blob_is_there(const std::string& etag, int64_t size) const {
  std::error_code error;
  const std::string path = cache_.blob_path(etag);
  if (!fs::is_regular_file(path, error)) return false;
  return size < 0 || static_cast<int64_t>(fs::file_size(path, error)) == size;
}

// Better to say it now than after an hour.
void Fleet::check_space(const std::vector<const RepoFile*>& files) const {
  int64_t needed = 0;
  std::error_code error;
  for (const RepoFile* file : files) {
    const int64_t size = std::max<int64_t>(file->size, 0);
    if (cache_.file_size(listing_.commit, file->name) == file->size) continue;
    if (!file->etag().empty() && blob_is_there(file->etag(), file->size)) continue;
    needed += size;
    if (file->etag().empty()) continue;
    auto kept = fs::file_size(cache_.incomplete_path(file->etag()), error);
    if (!error) needed -= std::min(size, static_cast<int64_t>(kept));
  }
  struct statvfs disk {};
  if (statvfs(cache_.folder().c_str(), &disk) != 0) return;
  const auto free = static_cast<int64_t>(disk.f_bavail) * static_cast<int64_t>(disk.f_frsize);
  if (needed > free) {
    auto text = [](int64_t bytes) {
      const auto size = static_cast<double>(bytes);
      return size < 1e9 ? fmt::format("{:.1f} MB", size / 1e6) : fmt::format("{:.2f} GB", size / 1e9);
    };
    fail(ErrorCode::kIo,
         "{}: {} are still to come and the disk of {} has {} free; make room ('tessera cache scan' shows what is "
         "there), or set HF_HUB_CACHE to a larger disk",
         id_.text(), text(needed), settings_.cache, text(free));
  }
}

BlobTask Fleet::make_task(HubClient& client, const RepoFile& file, const FileFacts& facts, std::string url) {
  BlobTask task;
  task.what = id_.repo + "/" + file.name;
  task.repo = id_.repo;
  task.size = facts.size;
  task.expected_hash = is_hex(facts.etag, 64) || is_hex(facts.etag, 40) ? facts.etag : file.etag();
  task.incomplete_path = cache_.incomplete_path(facts.etag);
  task.locate = [this, &client, &file, facts, first = std::move(url)]() mutable {
    if (!first.empty()) return std::exchange(first, "");
    FilePlace place = client.locate(id_, listing_.commit, file.name);
    if (place.facts.etag != facts.etag)
      fail(ErrorCode::kCorrupt, "{}/{}: the file changed on the server while it was fetched; run this again", id_.repo,
           file.name);
    return place.url;
  };
  task.on_kept = [this](int64_t bytes) { bytes_done_ += bytes; };
  task.on_bytes = [this](int64_t bytes) { bytes_done_ += bytes, bytes_fetched_ += bytes; };
  task.check = [this] { check(); };
  return task;
}

void Fleet::fetch_one(HubClient& client, const RepoFile& file) {
  DownloadedFile result{.name = file.name, .size = file.size};
  result.path = cache_.file_path(listing_.commit, file.name);
  std::optional<int64_t> there = cache_.file_size(listing_.commit, file.name);
  if (there && (file.size < 0 || *there == file.size)) {
    result.was_cached = true;
    result.size = *there;
    bytes_done_ += *there;
  } else {
    FileFacts facts{.commit = listing_.commit, .etag = file.etag(), .size = file.size};
    std::string url;
    result.was_cached = !facts.etag.empty() && blob_is_there(facts.etag, facts.size);
    if (!result.was_cached) {
      FilePlace place = client.locate(id_, listing_.commit, file.name);
      const bool comparable =
          facts.etag.size() == place.facts.etag.size() && is_hex(place.facts.etag, facts.etag.size());
      if ((comparable && facts.etag != place.facts.etag) ||
          (facts.size >= 0 && place.facts.size >= 0 && facts.size != place.facts.size)) {
        fail(ErrorCode::kCorrupt, "{}/{}: the hub's list and the file itself disagree ({}, {} bytes; {}, {} bytes)",
             id_.repo, file.name, facts.etag, facts.size, place.facts.etag, place.facts.size);
      }
      if (place.facts.size < 0) place.facts.size = facts.size;
      facts = place.facts;
      url = place.url;
    }
    FileLock lock = cache_.lock_blob(facts.etag, [this] { check(); });
    if (blob_is_there(facts.etag, facts.size)) {  // perhaps by another process meanwhile
      std::error_code ignored;
      bytes_done_ += static_cast<int64_t>(fs::file_size(cache_.blob_path(facts.etag), ignored));
    } else {
      download_blob(settings_, make_task(client, file, facts, url));
      std::error_code error;
      fs::rename(cache_.incomplete_path(facts.etag), cache_.blob_path(facts.etag), error);
      if (error) fail(ErrorCode::kIo, "{}: cannot be put in place ({})", cache_.blob_path(facts.etag), error.message());
    }
    cache_.link(listing_.commit, file.name, facts.etag);
    result.size = cache_.file_size(listing_.commit, file.name).value_or(0);
  }
  ++files_done_;
  std::lock_guard guard(mutex_);
  done_.push_back(std::move(result));
}

void Fleet::work() {
  try {
    HubClient client(settings_, [this] { check(); });
    for (;;) {
      const RepoFile* file = nullptr;
      {
        std::lock_guard guard(mutex_);
        if (next_ == queue_.size() || failure_) break;
        file = queue_[next_++];
      }
      fetch_one(client, *file);
    }
  } catch (...) {
    std::lock_guard guard(mutex_);
    if (!failure_) failure_ = std::current_exception();
    stop_ = true;
  }
  std::lock_guard guard(mutex_);
  --working_;
  changed_.notify_all();
}

void Fleet::fetch(std::vector<const RepoFile*> files) {
  check_space(files);
  for (const RepoFile* file : files) bytes_ += std::max<int64_t>(file->size, 0);
  files_ += static_cast<int>(files.size());
  std::ranges::stable_sort(files, std::greater{}, &RepoFile::size);  // the long ones first
  queue_ = std::move(files);
  next_ = 0;
  working_ = static_cast<int>(std::min<size_t>(queue_.size(), static_cast<size_t>(settings_.files_at_once)));
  std::vector<std::thread> threads;
  for (int i = working_; i > 0; --i) threads.emplace_back([this] { work(); });
  {
    std::unique_lock guard(mutex_);
    while (working_ > 0) {
      changed_.wait_for(guard, std::chrono::milliseconds(100));
      if (!hooks_.on_progress) continue;
      guard.unlock();
      hooks_.on_progress(progress());
      guard.lock();
    }
  }
  for (std::thread& thread : threads) thread.join();
  if (failure_) std::rethrow_exception(failure_);
}

bool chosen(const DownloadRequest& request, const std::string& name) {
  auto any = [&](const std::vector<std::string>& patterns) {
    return std::ranges::any_of(patterns, [&](const std::string& p) { return matches(p, name); });
  };
  if (any(request.exclude)) return false;
  if (!request.include.empty()) return any(request.include);
  if (request.selection == Selection::kConfig) return name == "config.json";
  return request.selection == Selection::kAll || is_model_side_file(name);
}

const RepoFile* find_file(const RepoListing& listing, const std::string& name) {
  auto it = std::ranges::find(listing.files, name, &RepoFile::name);
  return it == listing.files.end() ? nullptr : &*it;
}

// The weight files that the index, by now in the cache, or the names themselves ask for.
std::vector<const RepoFile*> choose_weights(const DownloadRequest& request, const RepoListing& listing,
                                            const RepoCache& cache) {
  std::vector<std::string> names;
  if (find_file(listing, kShardIndex) && cache.file_size(listing.commit, kShardIndex)) {
    const std::string where = request.id.text() + "/" + kShardIndex;
    names = parse_shard_names(read_text_file(cache.file_path(listing.commit, kShardIndex), kMaxIndexBytes), where);
    for (const std::string& name : names)
      if (!find_file(listing, name))
        fail(ErrorCode::kCorrupt, "{}: names {}, which is not in the repository; its author must upload it", where,
             name);
  } else {
    for (const RepoFile& file : listing.files) names.push_back(file.name);
    names = weight_files(names);
  }
  if (names.empty()) {
    fail(ErrorCode::kUnsupported,
         "{}: has no *.safetensors at its top, the form of weights that tessera reads; "
         "--all or --include fetch other files",
         request.id.text());
  }
  std::vector<const RepoFile*> files;
  for (const std::string& name : names) {
    auto excluded = [&](const std::string& pattern) { return matches(pattern, name); };
    if (std::ranges::none_of(request.exclude, excluded)) files.push_back(find_file(listing, name));
  }
  return files;
}

void refuse_when_nothing_matches(const DownloadRequest& request, const RepoListing& listing, const RepoCache& cache) {
  if (request.include.empty() && request.selection == Selection::kConfig)
    fail(ErrorCode::kNotFound, "{}: has no config.json, so it is no model that tessera knows", request.id.text());
  for (const std::string& name : request.include) {  // a plain name: Python's tools ask for the same ones
    if (name.find_first_of("*?[") == name.npos && !objection_to_file_name(name))
      cache.note_absent(listing.commit, name);
  }
  std::string patterns;
  for (const std::string& p : request.include) patterns += (patterns.empty() ? "" : ", ") + p;
  fail(ErrorCode::kNotFound, "{}: none of its {} files matches {}", request.id.text(), listing.files.size(),
       patterns.empty() ? "what was asked for" : patterns);
}

}  // namespace

bool is_model_side_file(const std::string& name) {
  if (name.find('/') != name.npos) return false;
  auto ends = [&](const char* suffix) { return name.ends_with(suffix); };
  return ends(".json") || ends(".jinja") || ends(".model") || name == "merges.txt" || name == "vocab.txt";
}

std::vector<std::string> weight_files(const std::vector<std::string>& names) {
  if (std::ranges::find(names, "model.safetensors") != names.end()) return {"model.safetensors"};
  std::vector<std::string> files;
  for (const std::string& name : names)
    if (name.ends_with(".safetensors") && name.find('/') == name.npos) files.push_back(name);
  return files;
}

DownloadResult download_snapshot(const HubSettings& settings, const DownloadRequest& request,
                                 const DownloadHooks& hooks) {
  if (settings.offline) {
    fail(ErrorCode::kNotFound, "{}: HF_HUB_OFFLINE is set, so nothing is fetched; unset it", request.id.text());
  }
  const RepoListing listing = [&] {
    auto check = [&] {
      if (hooks.cancelled && hooks.cancelled()) fail(ErrorCode::kCancelled, "{}: stopped", request.id.text());
    };
    if (request.id.kind == RepoKind::kKernel && is_commit(request.id.revision)) {
      const RepoCache cache(settings.cache, request.id.repo, request.id.kind);
      if (std::optional<RepoListing> tree = cache.read_tree(request.id.revision)) return *std::move(tree);
    }
    return HubClient(settings, check).list(request.id);
  }();
  Fleet fleet(settings, request.id, listing, hooks);
  fleet.cache().prepare(listing.commit);
  fleet.cache().write_tree(listing);
  std::vector<const RepoFile*> files;
  for (const RepoFile& file : listing.files)
    if (chosen(request, file.name)) files.push_back(&file);
  if (files.empty()) refuse_when_nothing_matches(request, listing, fleet.cache());
  fleet.fetch(files);
  if (request.selection == Selection::kModel && request.include.empty())
    fleet.fetch(choose_weights(request, listing, fleet.cache()));
  fleet.cache().write_ref(request.id.revision, listing.commit);

  DownloadResult result{.commit = listing.commit, .folder = fleet.cache().snapshot_path(listing.commit)};
  result.files = fleet.take_files();
  std::ranges::sort(result.files, {}, &DownloadedFile::name);
  for (const RepoFile& file : listing.files) {
    if (std::ranges::binary_search(result.files, file.name, {}, &DownloadedFile::name)) continue;
    ++result.left_out_files;
    result.left_out_bytes += std::max<int64_t>(file.size, 0);
  }
  result.bytes_fetched = fleet.progress().bytes_fetched;
  return result;
}

}  // namespace tessera::hub
