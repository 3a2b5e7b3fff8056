// Reads what a hub server answers: listings, headers, shard indexes. Whatever the bytes are, the result is either
// something that is safe to use in a path, or an Error. Pure; src/hub/hub_property.cc throws random bytes at it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tessera::hub {

// Names in lower case; of a name that came twice, the last.
using Headers = std::map<std::string, std::string>;

struct RepoFile {
  std::string name;     // checked: objection_to_file_name() is null
  int64_t size = -1;    // -1: the server does not say
  std::string blob_id;  // git's SHA-1 of the file, or of its pointer; empty when not said
  std::string sha256;   // of a large file's content; empty for a small one

  // What its blob will be called; empty when not known.
  const std::string& etag() const { return sha256.empty() ? blob_id : sha256; }
};

struct RepoListing {
  std::string commit;
  std::vector<RepoFile> files;  // sorted by name, each once
};

// Of GET /api/models/ORG/NAME/revision/REV?blobs=true. `where` opens every message. Throws kCorrupt.
RepoListing parse_listing(std::string_view json, const std::string& where);

// "sha" of GET /api/kernels/ORG/NAME/revision/REV. Throws kCorrupt.
std::string parse_commit(std::string_view json, const std::string& where);
// One page of GET /api/kernels/ORG/NAME/tree/COMMIT?recursive=true, and the whole once all are there. Throw kCorrupt.
void add_tree_page(RepoListing& listing, std::string_view json, const std::string& where);
void finish_listing(RepoListing& listing, const std::string& where);
// The address of rel="next" in a Link header; empty: there is none.
std::string next_page(std::string_view link);
// The N of a branch "v<N>"; nullopt for any other name.
std::optional<int64_t> version_of_branch(std::string_view branch);
// Branches "v<N>" of GET /api/kernels/ORG/NAME/refs, with their commits. Throws kCorrupt.
std::map<int64_t, std::string> parse_kernel_versions(std::string_view json, const std::string& where);
// "trustedKernelPublisher" of GET /api/organizations/ORG/overview; absent is false. Throws kCorrupt.
bool parse_trusted_publisher(std::string_view json, const std::string& where);

// What HEAD /ORG/NAME/resolve/REV/FILE tells of a file.
struct FileFacts {
  std::string commit;
  std::string etag;   // without quotes; is_blob_name() holds
  int64_t size = -1;  // -1: not said
};

// Adds one answer's headers; a redirect's own facts (X-Linked-*) win over the target's. Throws kCorrupt.
void add_file_headers(FileFacts& facts, const Headers& headers, bool redirect, const std::string& where);

// `W/"abc"` or `"abc"` as abc.
std::string normal_etag(std::string_view header);

struct ContentRange {
  int64_t begin = 0, end = 0;  // end is one past the last byte
  int64_t total = -1;          // -1: unknown
};
std::optional<ContentRange> parse_content_range(std::string_view header);

// Seconds of a Retry-After header, at most 300; nullopt for a date or nonsense.
std::optional<double> parse_retry_after(std::string_view header);

// The files that model.safetensors.index.json names, each once. Throws kCorrupt.
std::vector<std::string> parse_shard_names(std::string_view json, const std::string& where);

// One line of a header, "Name: value\r\n", into `headers`. Keeps only those that are read above, and no long ones.
void add_header_line(Headers& headers, std::string_view line);

// A header's value, or "".
std::string header(const Headers& headers, const std::string& name);

}  // namespace tessera::hub
