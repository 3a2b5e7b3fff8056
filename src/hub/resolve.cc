#include "hub/resolve.h"

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "core/json.h"
#include "core/log.h"
#include "hub/repo_cache.h"

namespace tessera::hub {

namespace {

namespace fs = std::filesystem;

// The first file that a model needs and the snapshot does not have; "" when it is whole.
std::string missing_file(const RepoCache& cache, const std::string& commit, Need need) {
  auto there = [&](const std::string& name) { return cache.file_size(commit, name).has_value(); };
  if (!there("config.json")) return "config.json";
  if (need == Need::kConfig) return "";
  const std::optional<RepoListing> tree = cache.read_tree(commit);
  std::vector<std::string> names;
  if (tree) {
    for (const RepoFile& file : tree->files) {
      names.push_back(file.name);
      if (is_model_side_file(file.name) && cache.file_size(commit, file.name) != file.size) return file.name;
    }
  } else {
    if (!there("tokenizer.json") && !cache.known_absent(commit, "tokenizer.json")) return "tokenizer.json";
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(cache.snapshot_path(commit), error))
      names.push_back(entry.path().filename().string());
  }
  if (there(kShardIndex)) {
    names = parse_shard_names(read_text_file(cache.file_path(commit, kShardIndex), kMaxIndexBytes), kShardIndex);
  } else {
    names = weight_files(names);
    if (names.empty()) return "model.safetensors";
  }
  for (const std::string& name : names) {
    std::optional<int64_t> size = cache.file_size(commit, name);
    if (!size) return name;
    if (!tree) continue;
    auto listed = std::ranges::find(tree->files, name, &RepoFile::name);
    if (listed != tree->files.end() && listed->size != *size) return name;
  }
  return "";
}

}  // namespace

std::optional<std::string> find_in_cache(const HubSettings& settings, const HubId& id, Need need) {
  const RepoCache cache(settings.cache, id.repo);
  std::optional<std::string> commit = cache.commit_of(id.revision);
  if (!commit || !missing_file(cache, *commit, need).empty()) return std::nullopt;
  return cache.snapshot_path(*commit);
}

std::string find_or_download(const HubSettings& settings, const HubId& id, Need need, const DownloadHooks& hooks) {
  if (auto folder = find_in_cache(settings, id, need)) {
    log::info("{}: {}", id.text(), *folder);
    return *folder;
  }
  if (settings.offline) {
    const RepoCache cache(settings.cache, id.repo);
    const std::optional<std::string> commit = cache.commit_of(id.revision);
    fail(ErrorCode::kNotFound,
         "{}: {} in the cache {}, and HF_HUB_OFFLINE is set; unset it once, or fetch the model elsewhere ('tessera "
         "download {}') and copy the cache",
         id.text(), commit ? missing_file(cache, *commit, need) + " is not" : "is not", settings.cache, id.text());
  }
  DownloadRequest request{.id = id, .selection = need == Need::kModel ? Selection::kModel : Selection::kConfig};
  return download_snapshot(settings, request, hooks).folder;
}

std::string locate_model(const std::string& model, Need need, const DownloadHooks& hooks) {
  std::error_code ignored;
  if (fs::exists(model, ignored)) return model;
  const std::optional<HubId> id = parse_hub_id(model);
  return id ? find_or_download(settings_from_env(), *id, need, hooks) : model;
}

}  // namespace tessera::hub
