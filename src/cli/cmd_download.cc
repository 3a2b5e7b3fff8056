// tessera download: brings a model from the hub into the cache that Python's tools share.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>

#include "cli/byte_progress.h"
#include "cli/commands.h"
#include "cli/hub_model.h"
#include "core/error.h"
#include "hub/download.h"

namespace tessera::cli {

namespace fs = std::filesystem;

namespace {

constexpr const char* kExamples = R"(
Fetches what a model is run with: configuration, tokenizer, chat template and the safetensors files in use. Several files
and ranges come at once, every file is verified by its hash, and nothing is lost when the download is interrupted: the
same command goes on where it stopped. The folder's path is printed on standard output.

The cache is the one of Python's huggingface_hub: what either has fetched, both use. HF_HOME, HF_HUB_CACHE, HF_TOKEN,
HF_ENDPOINT and HF_HUB_OFFLINE mean the same here; proxies are taken from https_proxy, http_proxy and no_proxy.

examples:
  tessera download openai/gpt-oss-20b
  tessera download openai/gpt-oss-20b@main --include 'original/*'      only what matches
  tessera download openai/gpt-oss-20b --all --exclude 'metal/*'        everything else
  HF_ENDPOINT=https://hub-mirror.example tessera download ORG/NAME)";

struct Options {
  std::string id, revision;
  std::vector<std::string> include, exclude;
  bool all = false;
};

hub::DownloadRequest request_of(const Options& options) {
  hub::DownloadRequest request{.id = hub::require_hub_id(options.id)};
  if (!options.revision.empty()) {
    if (options.id.find('@') != std::string::npos)
      fail(ErrorCode::kInvalidArgument, "{} and --revision {}: give the revision once", options.id, options.revision);
    if (!hub::is_revision(options.revision))
      fail(ErrorCode::kInvalidArgument, "--revision {}: expected a branch, tag or commit",
           hub::shown(options.revision));
    request.id.revision = options.revision;
  }
  if (options.all) request.selection = hub::Selection::kAll;
  request.include = options.include;
  request.exclude = options.exclude;
  return request;
}

OrderedJson as_json(const hub::DownloadRequest& request, const hub::DownloadResult& result, double seconds) {
  OrderedJson files = OrderedJson::array();
  for (const hub::DownloadedFile& file : result.files)
    files.push_back({{"name", file.name}, {"bytes", file.size}, {"path", file.path}, {"was_cached", file.was_cached}});
  return {{"repo", request.id.repo},
          {"revision", request.id.revision},
          {"commit", result.commit},
          {"folder", result.folder},
          {"files", std::move(files)},
          {"left_out", {{"files", result.left_out_files}, {"bytes", result.left_out_bytes}}},
          {"bytes_fetched", result.bytes_fetched},
          {"seconds", seconds}};
}

// Offline: what a model needs, when all of it is in the cache.
hub::DownloadResult from_cache(const hub::HubSettings& settings, const hub::HubId& id) {
  hub::DownloadResult result{.folder = hub::find_or_download(settings, id, hub::Need::kModel)};
  const fs::path folder = result.folder;
  result.commit = folder.filename().string();
  for (const fs::directory_entry& file : fs::recursive_directory_iterator(folder))
    if (file.is_regular_file())
      result.files.push_back({.name = file.path().lexically_relative(folder).string(),
                              .size = static_cast<int64_t>(file.file_size()),
                              .path = file.path().string(),
                              .was_cached = true});
  std::ranges::sort(result.files, {}, &hub::DownloadedFile::name);
  return result;
}

}  // namespace

int cmd_download(Invocation& call) {
  CLI::App app{"Downloads a model from the hub into the cache, resumes what was interrupted, verifies every file.",
               "tessera download"};
  Options options;
  app.add_option("ID", options.id, "ORG/NAME, or ORG/NAME@REVISION")->required();
  app.add_option("--revision", options.revision, "branch, tag or commit (default: main)");
  app.add_option("--include", options.include, "only files that match this pattern; may be repeated")
      ->allow_extra_args(false);
  app.add_option("--exclude", options.exclude, "no file that matches this pattern; may be repeated")
      ->allow_extra_args(false);
  app.add_flag("--all", options.all, "every file of the repository");
  app.footer(kExamples);
  if (!parse(app, call)) return 0;

  const hub::DownloadRequest request = request_of(options);
  const ByteProgress::Clock::time_point start = ByteProgress::Clock::now();
  hub::DownloadResult result;
  {
    HubRun run(request.id.text());
    const hub::HubSettings settings = hub::settings_from_env();
    const bool plain = !options.all && options.include.empty() && options.exclude.empty();
    result = settings.offline && plain ? from_cache(settings, request.id)
                                       : hub::download_snapshot(settings, request, run.hooks());
  }
  const double seconds = std::chrono::duration<double>(ByteProgress::Clock::now() - start).count();
  if (call.json) {
    call.out.json(as_json(request, result, seconds));
    return 0;
  }
  fmt::print(stderr, "{} files, {} fetched in {:.1f} s", result.files.size(), bytes_text(result.bytes_fetched),
             seconds);
  if (result.left_out_files > 0 && options.include.empty() && !options.all) {
    fmt::print(stderr, "; left out: {} files, {}, that a model is not run with (--all takes them)",
               result.left_out_files, bytes_text(result.left_out_bytes));
  }
  fmt::print(stderr, "\n");
  call.out.text(result.folder + "\n");
  return 0;
}

}  // namespace tessera::cli
