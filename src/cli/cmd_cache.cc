// tessera cache: what the hub's cache holds (scan), and removing parts of it (delete).
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <filesystem>
#include <iostream>

#include "cli/byte_progress.h"
#include "cli/commands.h"
#include "cli/terminal.h"
#include "core/error.h"
#include "hub/cache_scan.h"
#include "hub/settings.h"

namespace tessera::cli {

namespace {

constexpr const char* kExamples = R"(
examples:
  tessera cache scan                               one line a repository
  tessera cache scan --verbose                     one line a revision
  tessera cache delete ORG/NAME                    a repository with all its revisions
  tessera cache delete ORG/NAME@REV OTHER/NAME     a revision: branch, tag, or the first digits of a commit

A model that is running keeps running: its files stay until it ends.)";

struct Options {
  std::string dir;
  bool verbose = false, yes = false, dry_run = false;
  std::vector<std::string> targets;
};

using Row = std::vector<std::string>;

// "2 hours ago", as the hub's tools say it.
std::string ago(double when) {
  const double now = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  const double delta = now - when;
  constexpr struct {
    const char* unit;
    double seconds, limit;
  } kUnits[] = {{"second", 1, 60}, {"minute", 60, 60},  {"hour", 3600, 24},
                {"day", 86400, 7}, {"week", 604800, 4}, {"month", 2629800, 12}};
  if (delta < 20) return "a few seconds ago";
  for (const auto& u : kUnits) {
    const auto n = static_cast<int64_t>(delta / u.seconds + 0.5);
    if (static_cast<double>(n) > u.limit) continue;
    return n == 1 ? fmt::format("1 {} ago", u.unit) : fmt::format("{} {}s ago", n, u.unit);
  }
  const auto years = static_cast<int64_t>(delta / 31557600 + 0.5);
  return years == 1 ? "1 year ago" : fmt::format("{} years ago", years);
}

std::string table(const Row& head, const std::vector<Row>& rows, const std::vector<bool>& right) {
  std::vector<size_t> widths;
  for (size_t c = 0; c < head.size(); ++c) {
    size_t width = head[c].size();
    for (const Row& row : rows) width = std::max(width, row[c].size());
    widths.push_back(width);
  }
  std::string text;
  auto add = [&](const Row& row, bool aligned) {
    std::string line;
    for (size_t c = 0; c < row.size(); ++c)
      line +=
          aligned && right[c] ? fmt::format("{:>{}} ", row[c], widths[c]) : fmt::format("{:<{}} ", row[c], widths[c]);
    text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  };
  Row rule;
  for (size_t width : widths) rule.push_back(std::string(width, '-'));
  add(head, false);
  add(rule, false);
  for (const Row& row : rows) add(row, true);
  return text;
}

std::string joined(const std::vector<std::string>& parts) {
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : ", ") + part;
  return text;
}

std::string scan_table(const hub::CacheReport& report, bool verbose) {
  std::vector<Row> rows;
  for (const hub::CachedRepo& repo : report.repos) {
    std::vector<std::string> refs;
    for (const hub::CachedRevision& r : repo.revisions) {
      refs.insert(refs.end(), r.refs.begin(), r.refs.end());
      if (verbose)
        rows.push_back({repo.id, repo.type, r.commit, hub::short_size(r.bytes), std::to_string(r.files),
                        ago(r.last_modified), joined(r.refs), r.path});
    }
    if (!verbose)
      rows.push_back({repo.id, repo.type, hub::short_size(repo.bytes), std::to_string(repo.files),
                      ago(repo.last_accessed), ago(repo.last_modified), joined(refs), repo.path});
  }
  if (verbose)
    return table(
        {"REPO ID", "REPO TYPE", "REVISION", "SIZE ON DISK", "NB FILES", "LAST_MODIFIED", "REFS", "LOCAL PATH"}, rows,
        {false, false, false, true, true, false, false, false});
  return table(
      {"REPO ID", "REPO TYPE", "SIZE ON DISK", "NB FILES", "LAST_ACCESSED", "LAST_MODIFIED", "REFS", "LOCAL PATH"},
      rows, {false, false, true, true, false, false, false, false});
}

OrderedJson scan_json(const hub::CacheReport& report, const std::string& dir) {
  OrderedJson repos = OrderedJson::array();
  for (const hub::CachedRepo& repo : report.repos) {
    OrderedJson revisions = OrderedJson::array();
    for (const hub::CachedRevision& r : repo.revisions)
      revisions.push_back({{"commit", r.commit},
                           {"path", r.path},
                           {"refs", r.refs},
                           {"files", r.files},
                           {"bytes", r.bytes},
                           {"last_modified", r.last_modified}});
    repos.push_back({{"id", repo.id},
                     {"type", repo.type},
                     {"path", repo.path},
                     {"bytes", repo.bytes},
                     {"files", repo.files},
                     {"last_accessed", repo.last_accessed},
                     {"last_modified", repo.last_modified},
                     {"revisions", std::move(revisions)}});
  }
  return {{"cache", dir},
          {"bytes", report.bytes},
          {"incomplete_bytes", report.incomplete_bytes},
          {"repos", std::move(repos)},
          {"warnings", report.warnings}};
}

int scan(Invocation& call, const Options& options) {
  const auto start = std::chrono::steady_clock::now();
  const hub::CacheReport report = hub::scan_cache(options.dir);
  if (call.json) {
    call.out.json(scan_json(report, options.dir));
    return 0;
  }
  std::string text = scan_table(report, options.verbose);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  text += fmt::format("\nDone in {:.1f}s. Scanned {} repo(s) for a total of {}.\n", seconds, report.repos.size(),
                      hub::short_size(report.bytes));
  if (report.incomplete_bytes > 0)
    text += fmt::format("Unfinished downloads hold another {}.\n", hub::short_size(report.incomplete_bytes));
  for (const std::string& warning : report.warnings) text += fmt::format("warning: {}\n", warning);
  call.out.text(printable(text));
  return 0;
}

bool confirmed(const Options& options) {
  if (options.yes) return true;
  if (!stdin_is_terminal())
    fail(ErrorCode::kInvalidArgument, "nobody can be asked here; give --yes to delete, or --dry-run to look");
  fmt::print(stderr, "Delete? [y/N] ");
  std::string answer;
  std::getline(std::cin, answer);
  return answer == "y" || answer == "Y" || answer == "yes";
}

int remove(Invocation& call, const Options& options) {
  const auto plans = hub::plan_deletion(hub::scan_cache(options.dir), options.dir, options.targets);
  int64_t bytes = 0;
  OrderedJson removed = OrderedJson::array();
  for (const hub::DeletePlan& plan : plans) {
    bytes += plan.bytes;
    std::vector<std::string> commits;
    for (const hub::CachedRevision& r : plan.revisions) commits.push_back(r.commit);
    removed.push_back({{"repo", plan.repo_path},
                       {"whole_repo", plan.whole_repo},
                       {"commits", commits},
                       {"blobs", plan.blobs.size()},
                       {"bytes", plan.bytes}});
    if (!call.json)
      fmt::print(stderr, "{}: {} revision(s), {}\n", plan.what, plan.revisions.size(), bytes_text(plan.bytes));
  }
  const bool go = !options.dry_run && confirmed(options);
  int64_t freed = 0;
  if (go)
    for (const hub::DeletePlan& plan : plans) freed += hub::delete_from_cache(plan);
  if (call.json) {
    call.out.json({{"deleted", go}, {"bytes", bytes}, {"freed_bytes", freed}, {"plans", std::move(removed)}});
  } else {
    call.out.text(go ? fmt::format("Deleted; {} are free again.\n", bytes_text(freed))
                     : std::string("Nothing deleted.\n"));
  }
  return 0;
}

}  // namespace

int cmd_cache(Invocation& call) {
  CLI::App app{"Shows what the hub's cache holds, and removes parts of it.", "tessera cache"};
  Options options;
  CLI::App* scan_app = app.add_subcommand("scan", "list repositories, their size and revisions");
  CLI::App* delete_app = app.add_subcommand("delete", "remove repositories or revisions");
  app.require_subcommand(1);
  for (CLI::App* leaf : {scan_app, delete_app})
    leaf->add_option("--dir", options.dir, "the cache's folder (default: HF_HUB_CACHE, or $HF_HOME/hub)");
  scan_app->add_flag("-v,--verbose", options.verbose, "one line a revision");
  delete_app->add_option("TARGET", options.targets, "ORG/NAME, ORG/NAME@REV, or a commit")->required();
  delete_app->add_flag("-y,--yes", options.yes, "do not ask");
  delete_app->add_flag("--dry-run", options.dry_run, "only say what would be removed");
  app.footer(kExamples);
  if (!parse(app, call)) return 0;
  if (options.dir.empty()) {
    options.dir = hub::settings_from_env().cache;
  } else if (!std::filesystem::is_directory(options.dir)) {
    fail(ErrorCode::kNotFound, "{}: no such folder", options.dir);
  }
  return scan_app->parsed() ? scan(call, options) : remove(call, options);
}

}  // namespace tessera::cli
