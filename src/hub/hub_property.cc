#include "hub/hub_property.h"

#include <filesystem>
#include <string_view>

#include "core/error.h"
#include "hub/http.h"
#include "hub/hub_id.h"
#include "hub/repo_cache.h"
#include "hub/server_answers.h"

namespace tessera::hub {

namespace {

constexpr const char* kCommit = "0123456789abcdef0123456789abcdef01234567";

void check_inside(const std::string& path, const std::string& folder) {
  const std::string normal = std::filesystem::path(path).lexically_normal().string();
  TS_CHECK(normal == path && normal.starts_with(folder + "/") && path.find('\0') == path.npos, "{}", shown(path));
}

void check_name(const RepoCache& cache, const std::string& name) {
  check_inside(cache.file_path(kCommit, name), cache.snapshot_path(kCommit));
}

void check_listing(const RepoCache& cache, std::string_view text) {
  RepoListing listing = parse_listing(text, "listing");
  check_inside(cache.snapshot_path(listing.commit), cache.folder());
  const RepoFile* last = nullptr;
  for (const RepoFile& file : listing.files) {
    check_name(cache, file.name);
    if (!file.etag().empty()) check_inside(cache.blob_path(file.etag()), cache.folder() + "/blobs");
    TS_CHECK(!last || last->name < file.name);
    last = &file;
  }
}

void check_headers(const RepoCache& cache, std::string_view text) {
  Headers headers;
  while (!text.empty()) {
    size_t end = std::min(text.find('\n'), text.size() - 1);
    add_header_line(headers, text.substr(0, end + 1));
    text.remove_prefix(end + 1);
  }
  FileFacts facts;
  add_file_headers(facts, headers, false, "file");
  if (!facts.etag.empty()) check_inside(cache.blob_path(facts.etag), cache.folder() + "/blobs");
  if (!facts.commit.empty()) check_inside(cache.snapshot_path(facts.commit), cache.folder() + "/snapshots");
  parse_retry_after(header(headers, "retry-after"));
  if (auto range = parse_content_range(header(headers, "content-range")))
    TS_CHECK(range->begin >= 0 && range->begin < range->end && (range->total < 0 || range->end <= range->total));
  std::string target = follow("https://hub.test/a/b", header(headers, "location"));
  TS_CHECK(target.empty() || target.starts_with("https://"), "{}", shown(target));
}

}  // namespace

void check_server_answer(const uint8_t* data, size_t size) {
  if (size == 0) return;
  const RepoCache cache("/cache", "org/name");
  std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    switch (data[0] % 4) {
      case 0:
        check_listing(cache, text);
        break;
      case 1:
        check_headers(cache, text);
        break;
      case 2:
        for (const std::string& name : parse_shard_names(text, "index")) check_name(cache, name);
        break;
      default:
        if (auto id = parse_hub_id(text)) {
          const RepoCache named("/cache", id->repo);
          check_inside(named.folder(), "/cache");
          check_inside(named.folder() + "/refs/" + id->revision, named.folder() + "/refs");
        }
    }
  } catch (const Error&) {
  }
}

}  // namespace tessera::hub
