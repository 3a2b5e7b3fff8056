#include "hub/hub_client.h"

#include "core/error.h"

namespace tessera::hub {

namespace {

constexpr int kMaxRedirects = 10;
using Method = HttpSession::Method;

bool is_redirect(long status) {
  return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

// Where a redirect leads. Throws kCorrupt when nobody should go there.
std::string redirect_target(const std::string& url, const HttpAnswer& answer, const std::string& what) {
  const std::string& location = header(answer.headers, "location");
  std::string target = follow(url, location);
  if (target.empty())
    fail(ErrorCode::kCorrupt, "{}: the hub points to '{}'; refused, expected an http(s) address, and https after https",
         what, shown(location));
  return target;
}

[[noreturn]] void refuse_access(const HubSettings& settings, const std::string& what, const std::string& repo,
                                const HttpAnswer& answer) {
  const bool gated = header(answer.headers, "x-error-code") == "GatedRepo";
  const std::string page = settings.endpoint + "/" + repo;
  if (settings.token.empty()) {
    fail(ErrorCode::kNotFound,
         "{}: {}; {}make a token at {}/settings/tokens and set HF_TOKEN to it (or log in with 'hf auth login')", what,
         gated ? "this model is gated and no token was given" : "not found, or private, or gated",
         gated ? fmt::format("ask for access at {}, then ", page) : "check the name, or ", settings.endpoint);
  }
  if (gated) {
    fail(ErrorCode::kNotFound,
         "{}: this model is gated and the token of {} has no access; open {} with the token's account, accept the "
         "conditions, then try again",
         what, settings.token_source, page);
  }
  if (answer.status == 401) {
    fail(
        ErrorCode::kNotFound,
        "{}: refused (401): the token of {} is wrong, expired or revoked, or the model does not exist; check the name, "
        "or make a new token at {}/settings/tokens",
        what, settings.token_source, settings.endpoint);
  }
  fail(ErrorCode::kNotFound,
       "{}: refused (403): the token of {} may not read this; check its permissions at {}/settings/tokens", what,
       settings.token_source, settings.endpoint);
}

}  // namespace

void refuse(const HubSettings& settings, const std::string& what, const std::string& repo, const HttpAnswer& answer) {
  const std::string& code = header(answer.headers, "x-error-code");
  if (answer.status == 0) {
    throw Unreachable(fmt::format("{}: {} does not answer ({}); check the connection, or a proxy in https_proxy", what,
                                  settings.endpoint, answer.error));
  }
  if (answer.status == 401 || answer.status == 403) refuse_access(settings, what, repo, answer);
  if (answer.status == 404) {
    const char* meaning = "not found; check the name";
    if (code == "RevisionNotFound") meaning = "no such revision; give a branch, tag or commit of it";
    if (code == "EntryNotFound") meaning = "no such file at this revision";
    fail(ErrorCode::kNotFound, "{}: {} ({})", what, meaning, settings.endpoint);
  }
  if (answer.status == 429) {
    throw Unreachable(fmt::format("{}: {} wants fewer requests (429) and kept saying so; wait some minutes{}", what,
                                  settings.endpoint, settings.token.empty() ? ", or set HF_TOKEN" : ""));
  }
  if (is_passing_trouble(answer))
    throw Unreachable(
        fmt::format("{}: {} has trouble (status {}); try again later", what, settings.endpoint, answer.status));
  fail(ErrorCode::kIo, "{}: {} answered with status {}; {}", what, settings.endpoint, answer.status,
       shown(header(answer.headers, "x-error-message")));
}

HubClient::HubClient(const HubSettings& settings, std::function<void()> check) : session_(settings, std::move(check)) {}

RepoListing HubClient::list(const HubId& id) {
  const HubSettings& settings = session_.settings();
  std::string url =
      fmt::format("{}/api/models/{}/revision/{}?blobs=true", settings.endpoint, id.repo, url_escape(id.revision));
  for (int hop = 0; hop <= kMaxRedirects; ++hop) {
    HttpAnswer answer = session_.patiently(Method::kGet, url);
    if (answer.status == 200) return parse_listing(answer.body, id.text() + " (answer of " + settings.endpoint + ")");
    if (!is_redirect(answer.status)) refuse(settings, id.text(), id.repo, answer);
    url = redirect_target(url, answer, id.text());
  }
  fail(ErrorCode::kCorrupt, "{}: the hub redirects in circles", id.text());
}

FilePlace HubClient::locate(const std::string& repo, const std::string& commit, const std::string& file) {
  const HubSettings& settings = session_.settings();
  const std::string what = repo + "/" + shown(file);
  FilePlace place;
  place.url = fmt::format("{}/{}/resolve/{}/{}", settings.endpoint, repo, commit, url_escape(file, "/"));
  for (int hop = 0; hop <= kMaxRedirects; ++hop) {
    HttpAnswer answer = session_.patiently(Method::kHead, place.url);
    const bool redirect = is_redirect(answer.status);
    if (!redirect && answer.status != 200) refuse(settings, what, repo, answer);
    add_file_headers(place.facts, answer.headers, redirect, what);
    if (redirect) {
      std::string from = place.url;
      place.url = redirect_target(from, answer, what);
      // Another host that holds the content: its own headers say nothing that the hub has not said.
      const bool away = origin_of(place.url) != origin_of(from);
      if (!(away && !place.facts.etag.empty() && place.facts.size >= 0)) continue;
    }
    if (place.facts.etag.empty() || place.facts.commit.empty()) {
      fail(ErrorCode::kCorrupt, "{}: {} says neither ETag nor X-Repo-Commit; is it a hub, or a proxy in its place?",
           what, settings.endpoint);
    }
    if (place.facts.commit != commit) {
      fail(ErrorCode::kCorrupt, "{}: asked for commit {}, and {} answers for {}", what, commit, settings.endpoint,
           place.facts.commit);
    }
    return place;
  }
  fail(ErrorCode::kCorrupt, "{}: the hub redirects in circles", what);
}

}  // namespace tessera::hub
