// The questions that are asked of a hub: what is in a repository, and where is a file. Used by one thread.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>

#include "hub/http.h"
#include "hub/hub_id.h"
#include "hub/server_answers.h"
#include "tessera/error.h"

namespace tessera::hub {

// The hub did not answer at all, or only with trouble that may pass: what is in the cache may do instead. Code kIo.
class Unreachable : public Error {
 public:
  explicit Unreachable(const std::string& message) : Error(ErrorCode::kIo, message) {}
};

struct FilePlace {
  FileFacts facts;
  std::string url;  // where GET finds the content; may be another host's, and good for a while only
};

class HubClient {
 public:
  // check(): called often while waiting; throws to stop. `settings` must outlive the client.
  HubClient(const HubSettings& settings, std::function<void()> check);

  // Throws Unreachable, kCorrupt, or kNotFound with what to do when the hub refuses.
  RepoListing list(const HubId& id);
  // The file of a commit. Follows redirects as far as the content's own place.
  FilePlace locate(const HubId& id, const std::string& commit, const std::string& file);
  // The commit that a kernel's revision stands for. Throws as list().
  std::string kernel_commit(const HubId& id);
  // The branches of a kernel's repository that are versions, "v<N>": N and its commit.
  std::map<int64_t, std::string> kernel_versions(const std::string& repo);
  // Does the hub trust this organisation to publish kernels? nullopt: it does not say, as of a user.
  std::optional<bool> is_trusted_publisher(const std::string& organisation);

 private:
  RepoListing list_kernel(const HubId& id);
  // The answer, when its status is 200; follows redirects. Otherwise throws what it means.
  HttpAnswer ask(const std::string& url, const HubId& id);

  HttpSession session_;
};

// Throws what an answer with a status of 400 or more, or with none, means for the user. `what` is the repository, with
// its revision or file.
[[noreturn]] void refuse(const HubSettings& settings, const std::string& what, const std::string& repo,
                         const HttpAnswer& answer);

}  // namespace tessera::hub
