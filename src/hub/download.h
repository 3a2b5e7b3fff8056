// Downloads a revision of a repository into the shared cache: several files at once, each resumed, verified and put in
// place atomically. Safe beside other processes, Python's tools included, that do the same.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "hub/hub_id.h"
#include "hub/server_answers.h"
#include "hub/settings.h"

namespace tessera::hub {

enum class Selection {
  kModel,   // what this program reads: configuration, tokenizer, chat template, the safetensors files in use
  kConfig,  // config.json
  kAll,     // every file
};

struct DownloadRequest {
  HubId id;
  Selection selection = Selection::kModel;
  std::vector<std::string> include;  // patterns, as matches(); when given, these choose instead of `selection`
  std::vector<std::string> exclude;
};

struct DownloadProgress {
  int64_t bytes = 0, bytes_done = 0;  // of the files chosen, those in the cache included
  int64_t bytes_fetched = 0;          // over the network, in this run
  int files = 0, files_done = 0;
};

struct DownloadHooks {
  std::function<void(const DownloadProgress&)> on_progress;  // ten times a second, by the calling thread; may be empty
  std::function<bool()> cancelled;                           // by every thread; may be empty
};

struct DownloadedFile {
  std::string name;
  int64_t size = 0;
  std::string path;
  bool was_cached = false;
};

struct DownloadResult {
  std::string commit;
  std::string folder;  // the snapshot
  std::vector<DownloadedFile> files;
  int left_out_files = 0;  // not chosen
  int64_t left_out_bytes = 0;
  int64_t bytes_fetched = 0;
};

// Throws Unreachable, kNotFound, kCorrupt, kIo, kCancelled; what has come is kept and the next call goes on from it.
DownloadResult download_snapshot(const HubSettings& settings, const DownloadRequest& request,
                                 const DownloadHooks& hooks = {});

// Configuration, tokenizer and template: the small files at the top of a repository that a model is run with.
bool is_model_side_file(const std::string& name);
// The weight files of `names` when there is no index: model.safetensors, or every *.safetensors at the top.
std::vector<std::string> weight_files(const std::vector<std::string>& names);

inline constexpr const char* kShardIndex = "model.safetensors.index.json";
inline constexpr int64_t kMaxIndexBytes = int64_t{64} << 20;

}  // namespace tessera::hub
