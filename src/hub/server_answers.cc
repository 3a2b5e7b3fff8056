#include "hub/server_answers.h"

#include <algorithm>
#include <charconv>
#include <set>

#include "core/error.h"
#include "core/json.h"
#include "hub/hub_id.h"
#include "hub/json_reader.h"

namespace tessera::hub {

namespace {

constexpr int kMaxDepth = 32;
constexpr size_t kMaxFiles = 100'000;
constexpr size_t kMaxHeader = 16 << 10;  // bytes; signed addresses are about 2 kB
constexpr int64_t kMaxFileBytes = int64_t{1} << 44;

constexpr std::string_view kHeaders[] = {"content-length", "content-range", "etag",           "location",
                                         "link",           "retry-after",   "x-error-code",   "x-linked-etag",
                                         "x-linked-size",  "x-repo-commit", "x-error-message"};

Json parse_bounded(std::string_view text, const std::string& where) {
  Json parsed = parse_nested_json(text, where, kMaxDepth);
  if (!parsed.is_object())
    fail(ErrorCode::kCorrupt, "{}: expected a JSON object; is something else answering in the hub's place?", where);
  return parsed;
}

std::string string_at(const Json& object, const char* key) {
  auto it = object.is_object() ? object.find(key) : object.end();
  return it != object.end() && it->is_string() ? it->get<std::string>() : "";
}

int64_t size_at(const Json& object, const char* key) {
  auto it = object.find(key);
  if (it == object.end() || !it->is_number_unsigned()) return -1;
  auto size = it->get<uint64_t>();
  return size <= static_cast<uint64_t>(kMaxFileBytes) ? static_cast<int64_t>(size) : -1;
}

std::optional<int64_t> parse_number(std::string_view text) {
  int64_t value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0 || value > kMaxFileBytes)
    return std::nullopt;
  return value;
}

// An entry of a listing or of a tree, which call three things differently.
RepoFile parse_file(const Json& entry, const std::string& where, const char* name, const char* id, const char* sha256) {
  RepoFile file;
  file.name = string_at(entry, name);
  if (const char* why = objection_to_file_name(file.name))
    fail(ErrorCode::kCorrupt, "{}: refused, it lists the file '{}', whose name {}", where, shown(file.name), why);
  file.size = size_at(entry, "size");
  std::string blob = string_at(entry, id);
  if (is_hex(blob, 40)) file.blob_id = blob;
  auto lfs = entry.find("lfs");
  if (lfs != entry.end() && lfs->is_object()) {
    std::string sha = string_at(*lfs, sha256);
    if (is_hex(sha, 64)) file.sha256 = sha;
    int64_t size = size_at(*lfs, "size");
    if (size >= 0) file.size = size;
    if (file.sha256.empty()) file.blob_id.clear();  // a pointer's hash says nothing of the content
  }
  return file;
}

RepoFile parse_tree_file(const Json& entry, const std::string& where) {
  return parse_file(entry, where, "path", "oid", "oid");
}

// A file cannot also be a folder. REQUIRES: sorted by name.
void check_no_file_is_a_folder(const std::vector<RepoFile>& files, const std::string& where) {
  std::set<std::string_view> names;
  for (const RepoFile& file : files) names.insert(file.name);
  for (const RepoFile& file : files) {
    std::string_view name = file.name;
    for (size_t slash = name.find('/'); slash != name.npos; slash = name.find('/', slash + 1)) {
      if (names.contains(name.substr(0, slash)))
        fail(ErrorCode::kCorrupt, "{}: '{}' is listed as a file and as a folder", where, shown(name.substr(0, slash)));
    }
  }
}

}  // namespace

RepoListing parse_listing(std::string_view json, const std::string& where) {
  Json in = parse_bounded(json, where);
  RepoListing listing;
  listing.commit = string_at(in, "sha");
  if (!is_commit(listing.commit))
    fail(ErrorCode::kCorrupt, "{}: \"sha\" is '{}'; expected a commit of 40 digits", where, shown(listing.commit));
  auto siblings = in.find("siblings");
  if (siblings == in.end() || !siblings->is_array())
    fail(ErrorCode::kCorrupt, "{}: has no list \"siblings\" of files", where);
  if (siblings->size() > kMaxFiles)
    fail(ErrorCode::kCorrupt, "{}: lists {} files, more than the {} this program takes", where, siblings->size(),
         kMaxFiles);
  for (const Json& entry : *siblings) {
    if (!entry.is_object()) fail(ErrorCode::kCorrupt, "{}: an entry of \"siblings\" is no object", where);
    listing.files.push_back(parse_file(entry, where, "rfilename", "blobId", "sha256"));
  }
  finish_listing(listing, where);
  return listing;
}

void finish_listing(RepoListing& listing, const std::string& where) {
  std::ranges::sort(listing.files, {}, &RepoFile::name);
  auto twice = std::ranges::adjacent_find(listing.files, {}, &RepoFile::name);
  if (twice != listing.files.end()) fail(ErrorCode::kCorrupt, "{}: lists '{}' twice", where, shown(twice->name));
  check_no_file_is_a_folder(listing.files, where);
}

std::string parse_commit(std::string_view json, const std::string& where) {
  std::string commit = string_at(parse_bounded(json, where), "sha");
  if (!is_commit(commit))
    fail(ErrorCode::kCorrupt, "{}: \"sha\" is '{}'; expected a commit of 40 digits", where, shown(commit));
  return commit;
}

void add_tree_page(RepoListing& listing, std::string_view json, const std::string& where) {
  // Wrapped, so that the bounds of objects hold for lists too.
  const Json in = parse_bounded("{\"tree\":" + std::string(json) + "}", where);
  const Json& tree = in.at("tree");
  if (in.size() != 1 || !tree.is_array()) fail(ErrorCode::kCorrupt, "{}: expected a list of files", where);
  if (listing.files.size() + tree.size() > kMaxFiles)
    fail(ErrorCode::kCorrupt, "{}: lists more than the {} files this program takes", where, kMaxFiles);
  for (const Json& entry : tree) {
    const std::string type = string_at(entry, "type");
    if (type != "file" && type != "directory")
      fail(ErrorCode::kCorrupt, "{}: an entry is neither file nor directory but '{}'", where, shown(type));
    if (type == "file") listing.files.push_back(parse_tree_file(entry, where));
  }
}

std::string next_page(std::string_view link) {
  while (!link.empty()) {
    const size_t open = link.find('<'), close = link.find('>', open == link.npos ? 0 : open);
    if (open == link.npos || close == link.npos) break;
    const size_t end = std::min(link.find(',', close), link.size());
    if (link.substr(close, end - close).find("rel=\"next\"") != link.npos)
      return std::string(link.substr(open + 1, close - open - 1));
    link.remove_prefix(std::min(end + 1, link.size()));
  }
  return "";
}

std::optional<int64_t> version_of_branch(std::string_view branch) {
  const auto version = branch.starts_with('v') ? parse_number(branch.substr(1)) : std::nullopt;
  return version && fmt::format("v{}", *version) == branch ? version : std::nullopt;
}

std::map<int64_t, std::string> parse_kernel_versions(std::string_view json, const std::string& where) {
  const Json in = parse_bounded(json, where);
  auto branches = in.find("branches");
  if (branches == in.end() || !branches->is_array() || branches->size() > kMaxFiles)
    fail(ErrorCode::kCorrupt, "{}: has no list \"branches\"", where);
  std::map<int64_t, std::string> versions;
  for (const Json& branch : *branches) {
    const std::string name = string_at(branch, "name"), commit = string_at(branch, "targetCommit");
    const std::optional<int64_t> version = version_of_branch(name);
    if (!version) continue;
    if (!is_commit(commit))
      fail(ErrorCode::kCorrupt, "{}: branch {} is at '{}'; expected a commit of 40 digits", where, name, shown(commit));
    versions[*version] = commit;
  }
  return versions;
}

bool parse_trusted_publisher(std::string_view json, const std::string& where) {
  const Json in = parse_bounded(json, where);
  auto flag = in.find("trustedKernelPublisher");
  return flag != in.end() && flag->is_boolean() && flag->get<bool>();
}

std::string normal_etag(std::string_view header) {
  if (header.starts_with("W/")) header.remove_prefix(2);
  while (header.starts_with('"')) header.remove_prefix(1);
  while (header.ends_with('"')) header.remove_suffix(1);
  return std::string(header);
}

void add_file_headers(FileFacts& facts, const Headers& headers, bool redirect, const std::string& where) {
  std::string commit = header(headers, "x-repo-commit");
  if (!commit.empty()) {
    if (!is_commit(commit))
      fail(ErrorCode::kCorrupt, "{}: X-Repo-Commit is '{}'; expected 40 digits", where, shown(commit));
    facts.commit = commit;
  }
  std::string linked = normal_etag(header(headers, "x-linked-etag")), etag = normal_etag(header(headers, "etag"));
  if (!linked.empty() || (facts.etag.empty() && !redirect && !etag.empty())) {
    facts.etag = linked.empty() ? etag : linked;
    if (!is_blob_name(facts.etag))
      fail(ErrorCode::kCorrupt, "{}: refused, its ETag '{}' cannot be a file's name", where, shown(facts.etag));
  }
  std::string size = header(headers, "x-linked-size");
  if (size.empty() && !redirect && facts.size < 0) size = header(headers, "content-length");
  if (size.empty()) return;
  std::optional<int64_t> value = parse_number(size);
  if (!value) fail(ErrorCode::kCorrupt, "{}: its size is given as '{}'", where, shown(size));
  facts.size = *value;
}

std::optional<ContentRange> parse_content_range(std::string_view header) {
  if (!header.starts_with("bytes ")) return std::nullopt;
  header.remove_prefix(6);
  size_t dash = header.find('-'), slash = header.find('/');
  if (dash == header.npos || slash == header.npos || slash < dash) return std::nullopt;
  auto begin = parse_number(header.substr(0, dash)), last = parse_number(header.substr(dash + 1, slash - dash - 1));
  if (!begin || !last || *last < *begin) return std::nullopt;
  ContentRange range{*begin, *last + 1, -1};
  if (header.substr(slash + 1) == "*") return range;
  auto total = parse_number(header.substr(slash + 1));
  if (!total || *total < range.end) return std::nullopt;
  range.total = *total;
  return range;
}

std::optional<double> parse_retry_after(std::string_view header) {
  std::optional<int64_t> seconds = parse_number(header);
  if (!seconds) return std::nullopt;
  return static_cast<double>(std::min<int64_t>(*seconds, 300));
}

std::vector<std::string> parse_shard_names(std::string_view json, const std::string& where) {
  Json in = parse_bounded(json, where);
  auto map = in.find("weight_map");
  if (map == in.end() || !map->is_object()) fail(ErrorCode::kCorrupt, "{}: has no object \"weight_map\"", where);
  std::set<std::string> names;
  for (const auto& [tensor, file] : map->items()) {
    if (!file.is_string()) fail(ErrorCode::kCorrupt, "{}: the file of '{}' is no string", where, shown(tensor));
    auto name = file.get<std::string>();
    if (const char* why = objection_to_file_name(name))
      fail(ErrorCode::kCorrupt, "{}: refused, it names the file '{}', whose name {}", where, shown(name), why);
    names.insert(std::move(name));
  }
  return {names.begin(), names.end()};
}

void add_header_line(Headers& headers, std::string_view line) {
  size_t colon = line.find(':');
  if (colon == line.npos || line.size() > kMaxHeader) return;
  std::string name(line.substr(0, colon));
  std::ranges::transform(name, name.begin(),
                         [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  if (std::ranges::find(kHeaders, name) == std::end(kHeaders)) return;
  std::string_view value = line.substr(colon + 1);
  size_t begin = value.find_first_not_of(" \t\r\n"), end = value.find_last_not_of(" \t\r\n");
  headers[name] = begin == value.npos ? "" : std::string(value.substr(begin, end - begin + 1));
}

std::string header(const Headers& headers, const std::string& name) {
  auto it = headers.find(name);
  return it == headers.end() ? "" : it->second;
}

}  // namespace tessera::hub
