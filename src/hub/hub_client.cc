#include "hub/hub_client.h"

#include "core/error.h"

namespace tessera::hub {

namespace {

constexpr int kMaxRedirects = 10;
constexpr int kMaxPages = 1000;
using Method = HttpSession::Method;

// The repository's own page, below the endpoint.
std::string page_of(const HubId& id) {
  return id.kind == RepoKind::kKernel ? "kernels/" + id.repo : id.repo;
}

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
         gated ? "this repository is gated and no token was given" : "not found, or private, or gated",
         gated ? fmt::format("ask for access at {}, then ", page) : "check the name, or ", settings.endpoint);
  }
  if (gated) {
    fail(ErrorCode::kNotFound,
         "{}: this repository is gated and the token of {} has no access; open {} with the token's account, accept the "
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

HttpAnswer HubClient::ask(const std::string& first_url, const HubId& id) {
  std::string url = first_url;
  for (int hop = 0; hop <= kMaxRedirects; ++hop) {
    HttpAnswer answer = session_.patiently(Method::kGet, url);
    if (answer.status == 200) return answer;
    if (!is_redirect(answer.status)) refuse(session_.settings(), id.text(), page_of(id), answer);
    url = redirect_target(url, answer, id.text());
  }
  fail(ErrorCode::kCorrupt, "{}: the hub redirects in circles", id.text());
}

RepoListing HubClient::list(const HubId& id) {
  if (id.kind == RepoKind::kKernel) return list_kernel(id);
  const std::string& endpoint = session_.settings().endpoint;
  const HttpAnswer answer =
      ask(fmt::format("{}/api/models/{}/revision/{}?blobs=true", endpoint, id.repo, url_escape(id.revision)), id);
  return parse_listing(answer.body, id.text() + " (answer of " + endpoint + ")");
}

std::string HubClient::kernel_commit(const HubId& id) {
  if (is_commit(id.revision)) return id.revision;
  const std::string& endpoint = session_.settings().endpoint;
  const std::string url = fmt::format("{}/api/kernels/{}/revision/{}", endpoint, id.repo, url_escape(id.revision));
  return parse_commit(ask(url, id).body, id.text() + " (answer of " + endpoint + ")");
}

// A kernel's files are listed by pages.
RepoListing HubClient::list_kernel(const HubId& id) {
  const std::string& endpoint = session_.settings().endpoint;
  const std::string where = id.text() + " (answer of " + endpoint + ")", api = endpoint + "/api/kernels/" + id.repo;
  RepoListing listing{.commit = kernel_commit(id)};
  std::string url = api + "/tree/" + listing.commit + "?recursive=true&expand=false";
  for (int page = 0; !url.empty(); ++page) {
    if (page == kMaxPages) fail(ErrorCode::kCorrupt, "{}: lists its files on more than {} pages", where, kMaxPages);
    const HttpAnswer answer = ask(url, id);
    add_tree_page(listing, answer.body, where);
    const std::string next = next_page(header(answer.headers, "link"));
    if (next.empty()) break;
    url = follow(url, next);
    if (origin_of(url) != origin_of(endpoint))
      fail(ErrorCode::kCorrupt, "{}: its next page of files is at '{}', another host", where, shown(next));
  }
  finish_listing(listing, where);
  return listing;
}

std::map<int64_t, std::string> HubClient::kernel_versions(const std::string& repo) {
  const HubId id{.repo = repo, .kind = RepoKind::kKernel};
  const std::string& endpoint = session_.settings().endpoint;
  return parse_kernel_versions(ask(fmt::format("{}/api/kernels/{}/refs", endpoint, repo), id).body,
                               repo + " (answer of " + endpoint + ")");
}

std::optional<bool> HubClient::is_trusted_publisher(const std::string& organisation) {
  const std::string& endpoint = session_.settings().endpoint;
  const HttpAnswer answer =
      session_.patiently(Method::kGet, fmt::format("{}/api/organizations/{}/overview", endpoint, organisation));
  if (answer.status == 404) return std::nullopt;
  if (answer.status != 200) refuse(session_.settings(), organisation, organisation, answer);
  return parse_trusted_publisher(answer.body, organisation + " (answer of " + endpoint + ")");
}

FilePlace HubClient::locate(const HubId& id, const std::string& commit, const std::string& file) {
  const HubSettings& settings = session_.settings();
  const std::string what = id.repo + "/" + shown(file);
  FilePlace place;
  place.url = fmt::format("{}/{}/resolve/{}/{}", settings.endpoint, page_of(id), commit, url_escape(file, "/"));
  for (int hop = 0; hop <= kMaxRedirects; ++hop) {
    HttpAnswer answer = session_.patiently(Method::kHead, place.url);
    const bool redirect = is_redirect(answer.status);
    if (!redirect && answer.status != 200) refuse(settings, what, page_of(id), answer);
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
